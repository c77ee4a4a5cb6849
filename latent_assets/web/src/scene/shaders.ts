// How a point becomes a disc: morph between two maps, colour, fading, depth cue.

export const POINT_VERTEX = /* glsl */ `
precision highp usampler2D;
precision highp sampler3D;
in uvec3 about; // code of the category, row (low 16 bits, high 16 bits)
in vec4 origin; // place on the map before in [0, 1], and whether it is known
uniform float morph;
uniform float size;
uniform float scale;
uniform float least;
uniform float most;
uniform bool by_row;
uniform bool has_state;
uniform float faded;
uniform vec3 ground;
uniform vec2 depths;
uniform sampler2D palette;
uniform sampler2D row_colour;
uniform sampler2D row_state;
uniform bool has_reached;
uniform sampler3D reached;
out vec3 colour;

ivec2 place_of_row() {
  uint row = about.y | (about.z << 16);
  return ivec2(int(row & 2047u), int(row >> 11u));
}

void main() {
  vec3 place = position * 2.0 - 1.0;
  float grown = 1.0;
  if (morph < 1.0) {
    if (origin.w > 0.5) place = mix(origin.xyz * 2.0 - 1.0, place, morph);
    else grown = morph;
  }
  float state = has_state ? texelFetch(row_state, place_of_row(), 0).r : 1.0;
  vec4 seen = modelViewMatrix * vec4(place, 1.0);
  gl_Position = projectionMatrix * seen;
  float wide = size * scale / max(-seen.z, 0.001);
  gl_PointSize = clamp(wide, least, most) * (grown > 0.02 ? grown : 0.0);
  float code = by_row ? texelFetch(row_colour, place_of_row(), 0).r * 255.0 : float(about.x);
  int at = by_row ? int(code + 0.5) : about.x == 0u ? 0 : 1 + int((about.x - 1u) % 255u);
  colour = texelFetch(palette, ivec2(at, 0), 0).rgb;
  float far = smoothstep(depths.x, depths.y, -seen.z) * 0.4;
  float away = state < 0.75 || faded > 0.0 ? max(faded, 1.0 - state) : 0.0;
  if (has_reached) away = max(away, 0.82 * texture(reached, place * 0.5 + 0.5).r);
  colour = mix(colour, ground, max(far, away));
  if (state < 0.25 || gl_PointSize <= 0.0) {
    gl_PointSize = 0.0;
    gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  }
}`;

export const POINT_FRAGMENT = /* glsl */ `
precision highp float;
in vec3 colour;
out vec4 result;
void main() {
  vec2 from = gl_PointCoord - 0.5;
  float off = dot(from, from);
  if (off > 0.25) discard;
  result = vec4(colour * (1.0 - off * 0.9), 1.0);
}`;

export const IMAGE_VERTEX = /* glsl */ `
in vec3 place;
in vec4 cell; // left, top, width, height in the texture
in float born;
uniform float now;
uniform float size;
uniform vec3 ground;
uniform vec2 depths;
uniform float shift;
uniform float widest; // of an image at the distance 1
in float weight; // 1, or more for results and the chosen image
out vec2 at;
out float away;
void main() {
  at = cell.xy + vec2(position.x + 0.5, 0.5 - position.y) * cell.zw;
  vec4 seen = modelViewMatrix * vec4(place, 1.0);
  vec2 shape = cell.zw / max(cell.z, cell.w);
  float grown = clamp((now - born) / 0.18, 0.0, 1.0);
  float wide = min(size, widest * -seen.z) * weight;
  if (weight > 1.0) wide = max(wide, widest * 0.42 * -seen.z);
  seen.xy += position.xy * shape * wide * (0.4 + 0.6 * grown);
  away = smoothstep(depths.x, depths.y, -seen.z) * 0.4;
  gl_Position = projectionMatrix * seen;
  // before the dots around it: nearer by depth, not moved on the screen
  float before = weight > 1.0 ? -seen.z * 0.3 : min(shift, -seen.z * 0.5);
  vec4 nearer = projectionMatrix * vec4(seen.xy, seen.z + before, 1.0);
  gl_Position.z = nearer.z / nearer.w * gl_Position.w;
}`;

export const IMAGE_FRAGMENT = /* glsl */ `
precision highp float;
in vec2 at;
in float away;
uniform sampler2D images;
uniform vec3 ground;
out vec4 result;
void main() {
  vec4 found = texture(images, at);
  if (found.a < 0.5) discard;
  result = vec4(mix(found.rgb, ground, away), 1.0);
}`;

export const MARK_VERTEX = /* glsl */ `
in vec4 tint; // colour, and the size in pixels; below 0 a ring
uniform float ratio;
out vec3 colour;
out float ring;
void main() {
  colour = tint.rgb;
  ring = tint.a < 0.0 ? 1.0 : 0.0;
  gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0);
  gl_PointSize = abs(tint.a) * ratio;
}`;

export const MARK_FRAGMENT = /* glsl */ `
precision highp float;
in vec3 colour;
in float ring;
uniform vec3 edge;
out vec4 result;
void main() {
  float off = length(gl_PointCoord - 0.5);
  if (off > 0.5 || (ring > 0.5 && off < 0.42)) discard;
  result = vec4(off > 0.38 && ring < 0.5 ? edge : colour, 1.0);
}`;

// a tube of the radius 1 around a curve, drawn as wide as so many pixels wherever it is
export const PATH_VERTEX = /* glsl */ `
uniform float pixel;
uniform float width;
void main() {
  vec3 middle = position - normal;
  float far = max(-(modelViewMatrix * vec4(middle, 1.0)).z, 0.001);
  gl_Position = projectionMatrix * modelViewMatrix * vec4(middle + normal * pixel * width * 0.5 * far, 1.0);
}`;

export const PATH_FRAGMENT = /* glsl */ `
precision highp float;
uniform vec3 colour;
uniform float opacity;
out vec4 result;
void main() {
  result = vec4(colour, opacity);
}`;
