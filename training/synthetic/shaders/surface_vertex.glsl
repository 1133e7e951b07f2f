// Everything but skin is lit per vertex; only its texture and the key light's shadow are looked up per pixel.
uniform mat4 clip_from_world;
uniform mat4 shadow_from_world;
uniform vec3 eye;
uniform vec3 key_direction;
uniform vec3 key;
uniform vec3 fill_direction;
uniform vec3 fill;
uniform vec3 sky;
uniform vec3 ground;
in vec3 in_position;
in vec3 in_normal;
in vec3 in_texture;  // place and layer
in vec4 in_low;  // colour, gloss
in vec4 in_high;  // colour, label
out vec3 texture_place;
out vec3 shadow_place;
out vec3 soft_light;
out vec3 key_light;
out float shine;
flat out vec3 low;
flat out vec4 high;
void main() {
    vec3 n = in_normal;
    soft_light = fill * max(dot(n, fill_direction), 0.0) + mix(ground, sky, 0.5 + 0.5 * n.z);
    key_light = key * max(dot(n, key_direction), 0.0);
    float mirrored = max(dot(n, normalize(key_direction + normalize(eye - in_position))), 0.0);
    shine = in_low.a * pow(mirrored, 10.0 + 90.0 * in_low.a);
    texture_place = in_texture;
    low = in_low.rgb;
    high = in_high;
    shadow_place = (shadow_from_world * vec4(in_position + 0.003 * n, 1.0)).xyz;
    gl_Position = clip_from_world * vec4(in_position, 1.0);
}
