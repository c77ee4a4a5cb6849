// The material of all points, and the textures that tell it something of every row.

import * as THREE from "three";
import { reachTexture } from "./reach";
import { POINT_FRAGMENT, POINT_VERTEX } from "./shaders";

const ROW_WIDTH = 2048; // of the textures that hold a value for each row; the shader knows it, too

export function pointMaterial(): THREE.ShaderMaterial {
  const empty = new THREE.DataTexture(new Uint8Array([255]), 1, 1, THREE.RedFormat);
  empty.needsUpdate = true;
  return new THREE.ShaderMaterial({
    glslVersion: THREE.GLSL3,
    vertexShader: POINT_VERTEX,
    fragmentShader: POINT_FRAGMENT,
    uniforms: {
      morph: { value: 1 },
      size: { value: 0.01 },
      scale: { value: 500 },
      least: { value: 1.6 },
      most: { value: 13 },
      by_row: { value: false },
      has_state: { value: false },
      faded: { value: 0 },
      ground: { value: new THREE.Color() },
      depths: { value: new THREE.Vector2(1, 10) },
      palette: { value: null },
      row_colour: { value: empty },
      row_state: { value: empty },
      has_reached: { value: false },
      reached: { value: reachTexture([], 0) },
    },
  });
}

/** A value of every row for the shader, in place of the texture `before`. */
export function rowTexture(rows: Uint8Array, before: THREE.DataTexture): THREE.DataTexture {
  before.dispose();
  const height = Math.max(1, Math.ceil(rows.length / ROW_WIDTH));
  const data = new Uint8Array(ROW_WIDTH * height);
  data.set(rows);
  const texture = new THREE.DataTexture(data, ROW_WIDTH, height, THREE.RedFormat);
  texture.needsUpdate = true;
  return texture;
}
