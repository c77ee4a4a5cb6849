// What is drawn over the cloud: results of a search, the chosen image, generated images with their paths and halos.

import * as THREE from "three";
import { MARK_FRAGMENT, MARK_VERTEX, PATH_FRAGMENT, PATH_VERTEX } from "./shaders";

const OVER_IMAGES = 5; // images have 4

export type Place = [number, number, number];

export interface Mark {
  place: Place;
  colour: THREE.Color;
  pixels: number;
}

export interface Line {
  places: Place[];
  colour: THREE.Color;
  opacity: number;
  /** Pixels, however near it is; lines of two places have one. */
  width: number;
}

export interface Halo {
  place: Place;
  radius: number;
  colour: THREE.Color;
}

export class Marks {
  readonly group = new THREE.Group();
  private readonly points: THREE.Points;
  private readonly material: THREE.ShaderMaterial;
  private readonly rest = new THREE.Group();
  private readonly pixel = { value: 0.002 };

  constructor() {
    this.material = new THREE.ShaderMaterial({
      glslVersion: THREE.GLSL3,
      vertexShader: MARK_VERTEX,
      fragmentShader: MARK_FRAGMENT,
      uniforms: { ratio: { value: 1 }, edge: { value: new THREE.Color(0xffffff) } },
      depthTest: false,
      depthWrite: false,
      transparent: true,
    });
    this.points = new THREE.Points(new THREE.BufferGeometry(), this.material);
    this.points.frustumCulled = false;
    this.points.renderOrder = 3;
    this.group.add(this.rest, this.points);
  }

  setLook(edge: THREE.Color, ratio: number): void {
    this.material.uniforms["edge"]!.value = edge;
    this.material.uniforms["ratio"]!.value = ratio;
  }

  set(marks: Mark[], lines: Line[], halos: Halo[]): void {
    const places = new Float32Array(marks.flatMap((mark) => mark.place));
    const tints = new Float32Array(marks.flatMap(({ colour, pixels }) => [colour.r, colour.g, colour.b, pixels]));
    this.points.geometry.dispose();
    this.points.geometry = new THREE.BufferGeometry();
    this.points.geometry.setAttribute("position", new THREE.BufferAttribute(places, 3));
    this.points.geometry.setAttribute("tint", new THREE.BufferAttribute(tints, 4));
    this.points.visible = marks.length > 0;
    for (const old of [...this.rest.children]) {
      this.rest.remove(old);
      old.traverse((each) => {
        if (!(each instanceof THREE.Line || each instanceof THREE.Mesh)) return;
        each.geometry.dispose();
        (each.material as THREE.Material).dispose();
      });
    }
    for (const line of lines) this.rest.add(this.line(line));
    for (const halo of halos) this.rest.add(this.halo(halo));
  }

  /** A line has a width of several pixels as a tube, and glows: lines of WebGL have one pixel. */
  private line({ places, colour, opacity, width }: Line): THREE.Object3D {
    const vectors = places.map((place) => new THREE.Vector3(...place));
    if (places.length < 3) {
      const material = new THREE.LineBasicMaterial({ color: colour, transparent: true, opacity, depthTest: false });
      const line = new THREE.Line(new THREE.BufferGeometry().setFromPoints(vectors), material);
      line.renderOrder = OVER_IMAGES;
      return line;
    }
    const curve = new THREE.CatmullRomCurve3(vectors, false, "centripetal");
    const tube = new THREE.TubeGeometry(curve, Math.min(places.length * 12, 400), 1, 6);
    const mesh = new THREE.Mesh(tube, this.pathMaterial(colour, opacity, width));
    const glow = new THREE.Mesh(tube, this.pathMaterial(colour, opacity * 0.22, width * 3.2));
    mesh.renderOrder = glow.renderOrder = OVER_IMAGES;
    mesh.frustumCulled = glow.frustumCulled = false; // as wide as the view wants, not as the geometry says
    return mesh.add(glow);
  }

  private pathMaterial(colour: THREE.Color, opacity: number, width: number): THREE.ShaderMaterial {
    return new THREE.ShaderMaterial({
      glslVersion: THREE.GLSL3,
      vertexShader: PATH_VERTEX,
      fragmentShader: PATH_FRAGMENT,
      uniforms: { pixel: this.pixel, width: { value: width }, colour: { value: colour }, opacity: { value: opacity } },
      transparent: true,
      depthTest: false,
      depthWrite: false,
    });
  }

  /** How large a pixel is at the distance 1, for lines of so many pixels. */
  set pixelSize(size: number) {
    this.pixel.value = size;
  }

  /** Three circles around a place: seen from within they hide nothing. */
  private halo({ place, radius, colour }: Halo): THREE.Object3D {
    const corners: number[] = [];
    const circle = (at: (cosine: number, sine: number) => Place): void => {
      for (let step = 0; step < 64; step++) {
        for (const turn of [step, step + 1]) {
          const angle = (turn / 64) * 2 * Math.PI;
          corners.push(...at(Math.cos(angle) * radius, Math.sin(angle) * radius));
        }
      }
    };
    circle((one, other) => [one, other, 0]);
    circle((one, other) => [0, one, other]);
    circle((one, other) => [other, 0, one]);
    const geometry = new THREE.BufferGeometry().setAttribute("position", new THREE.Float32BufferAttribute(corners, 3));
    const lines = new THREE.LineSegments(geometry, new THREE.LineBasicMaterial({ color: colour, transparent: true, opacity: 0.7 }));
    lines.position.set(...place);
    lines.renderOrder = 1;
    return lines;
  }
}
