// The camera: orbit, pan, zoom to the cursor, fly to a place; by mouse, touch and keyboard.

import * as THREE from "three";
import type { Camera } from "../state/store";

const NEAREST = 0.02;
const FARTHEST = 12;
const TAP = 6; // pixels that a press may move and still be a click

export interface ControlEvents {
  moved(): void;
  click(x: number, y: number): void;
  doubleClick(x: number, y: number): void;
  hover(x: number, y: number): void;
}

export class Controls {
  readonly camera = new THREE.PerspectiveCamera(50, 1, 0.005, 40);
  private readonly target = new THREE.Vector3();
  private aside = 0;
  private radius = 3.4;
  private theta = 0.6;
  private phi = 1.25;
  private readonly pressed = new Map<number, { x: number; y: number }>();
  private start = { x: 0, y: 0, moved: false };
  private pinch = 0;
  private flight: { from: Camera; to: Camera; began: number; seconds: number } | null = null;

  constructor(
    private readonly canvas: HTMLElement,
    private readonly events: ControlEvents,
    private readonly still: () => boolean,
  ) {
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"] as const) canvas.addEventListener(name, (event) => this.up(event));
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("dblclick", (event) => events.doubleClick(...this.inside(event)));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    this.place();
  }

  get view(): Camera {
    const { x, y, z } = this.target;
    return { target: [x, y, z], radius: this.radius, theta: this.theta, phi: this.phi };
  }

  set view(view: Camera) {
    this.flight = null;
    this.apply(view);
  }

  private apply({ target, radius, theta, phi }: Camera): void {
    this.target.set(...target);
    this.radius = THREE.MathUtils.clamp(radius, NEAREST, FARTHEST);
    this.theta = theta;
    this.phi = THREE.MathUtils.clamp(phi, 0.05, Math.PI - 0.05);
    this.place();
    this.events.moved();
  }

  /** `covered`: pixels of the right side that a panel hides. */
  resize(width: number, height: number, covered = 0): void {
    this.camera.aspect = width / Math.max(height, 1);
    this.aside = covered / width;
    if (covered) this.camera.setViewOffset(width, height, covered / 2, 0, width, height);
    else this.camera.clearViewOffset();
    this.camera.updateProjectionMatrix();
  }

  private place(): void {
    const side = Math.sin(this.phi) * this.radius;
    this.camera.position.set(
      this.target.x + side * Math.sin(this.theta),
      this.target.y + Math.cos(this.phi) * this.radius,
      this.target.z + side * Math.cos(this.theta),
    );
    this.camera.lookAt(this.target);
    this.camera.updateMatrixWorld();
  }

  /** Fly until `target` is in the middle at the distance `radius`; at once where motion is not wanted. */
  flyTo(target: [number, number, number], radius = this.radius, seconds = 0.9): void {
    const to = { ...this.view, target, radius: Math.max(radius, NEAREST) };
    if (this.still()) return this.apply(to);
    this.flight = { from: this.view, to, began: performance.now(), seconds };
    this.events.moved();
  }

  get flying(): boolean {
    return this.flight !== null;
  }

  /** One step of a flight. */
  update(now: number): void {
    if (!this.flight) return;
    const { from, to, began, seconds } = this.flight;
    const share = Math.min((now - began) / (seconds * 1000), 1);
    const eased = share * share * (3 - 2 * share);
    const between = (one: number, other: number): number => one + (other - one) * eased;
    this.apply({
      target: from.target.map((value, axis) => between(value, to.target[axis]!)) as Camera["target"],
      radius: Math.exp(between(Math.log(from.radius), Math.log(to.radius))),
      theta: between(from.theta, to.theta),
      phi: between(from.phi, to.phi),
    });
    if (share === 1) this.flight = null;
  }

  orbit(right: number, up: number): void {
    this.flight = null;
    this.apply({ ...this.view, theta: this.theta - right, phi: this.phi - up });
  }

  pan(right: number, up: number): void {
    this.flight = null;
    const sideways = new THREE.Vector3().setFromMatrixColumn(this.camera.matrixWorld, 0).multiplyScalar(right * this.radius);
    const upwards = new THREE.Vector3().setFromMatrixColumn(this.camera.matrixWorld, 1).multiplyScalar(up * this.radius);
    this.target.add(sideways).add(upwards).clampScalar(-2, 2);
    this.place();
    this.events.moved();
  }

  /** Come nearer by `factor` below 1; what is at x, y (in -1 to 1) of the target's depth stays where it is. */
  zoom(factor: number, x = 0, y = 0): void {
    this.flight = null;
    const radius = THREE.MathUtils.clamp(this.radius * factor, NEAREST, FARTHEST);
    const high = Math.tan(THREE.MathUtils.degToRad(this.camera.fov / 2)) * (this.radius - radius);
    const sideways = new THREE.Vector3().setFromMatrixColumn(this.camera.matrixWorld, 0);
    const upwards = new THREE.Vector3().setFromMatrixColumn(this.camera.matrixWorld, 1);
    this.target.addScaledVector(sideways, (x + this.aside) * high * this.camera.aspect).addScaledVector(upwards, y * high);
    this.target.clampScalar(-2, 2);
    this.radius = radius;
    this.place();
    this.events.moved();
  }

  /** Keys on the map; returns whether the key was one of its own. */
  key(event: KeyboardEvent): boolean {
    const step = 0.08;
    const arrows: Record<string, [number, number]> = {
      ArrowLeft: [-step, 0],
      ArrowRight: [step, 0],
      ArrowUp: [0, step],
      ArrowDown: [0, -step],
    };
    const arrow = arrows[event.key];
    if (arrow) (event.shiftKey ? this.pan(...arrow) : this.orbit(-arrow[0] * 1.5, -arrow[1] * 1.5));
    else if (event.key === "+" || event.key === "=") this.zoom(0.85);
    else if (event.key === "-" || event.key === "_") this.zoom(1 / 0.85);
    else return false;
    return true;
  }

  private inside(event: MouseEvent): [number, number] {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  private down(event: PointerEvent): void {
    this.canvas.setPointerCapture(event.pointerId);
    this.pressed.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (this.pressed.size === 1) this.start = { x: event.clientX, y: event.clientY, moved: false };
    else this.start.moved = true;
    this.pinch = this.spread();
    this.flight = null;
  }

  private move(event: PointerEvent): void {
    const before = this.pressed.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse") this.events.hover(...this.inside(event));
      return;
    }
    if (Math.hypot(event.clientX - this.start.x, event.clientY - this.start.y) > TAP) this.start.moved = true;
    const [right, up] = [event.clientX - before.x, event.clientY - before.y];
    this.pressed.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (!this.start.moved) return;
    const height = this.canvas.clientHeight || 1;
    if (this.pressed.size > 1) {
      this.pan(-right / height / 2, up / height / 2);
      const spread = this.spread();
      if (this.pinch > 0 && spread > 0) this.zoom(this.pinch / spread);
      this.pinch = spread;
    } else if (event.buttons & 2 || event.buttons & 4 || event.shiftKey) this.pan(-right / height, up / height);
    else this.orbit((right / height) * 3, (up / height) * 3);
  }

  private up(event: PointerEvent): void {
    if (!this.pressed.delete(event.pointerId)) return;
    this.pinch = this.spread();
    if (!this.start.moved && this.pressed.size === 0 && event.type === "pointerup" && event.button === 0) {
      this.events.click(...this.inside(event));
    }
  }

  private spread(): number {
    const [one, other] = [...this.pressed.values()];
    return one && other ? Math.hypot(one.x - other.x, one.y - other.y) : 0;
  }

  private wheel(event: WheelEvent): void {
    event.preventDefault();
    const [x, y] = this.inside(event);
    const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : 1);
    const { clientWidth, clientHeight } = this.canvas;
    this.zoom(Math.exp(THREE.MathUtils.clamp(pixels, -240, 240) * 0.0018), (x / clientWidth) * 2 - 1, 1 - (y / clientHeight) * 2);
  }
}
