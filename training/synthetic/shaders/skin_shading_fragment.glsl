// Shades what was drawn of a hand. Its triangles are so small that shading them as they are drawn would be wasteful:
// samples are shaded in blocks of 4x4, and each triangle's would be its own.
uniform vec3 eye;
uniform vec3 key_direction;
uniform vec3 key;
uniform vec3 skin_back;
uniform vec3 skin_palm;
uniform vec3 skin_nail;
uniform vec4 marks;  // flush, blotches, creases, veins
uniform vec4 finish;  // bumps, roughness, gloss, varnish
uniform vec2 labels;  // of hand and forearm
uniform vec2 skin_place;  // which part of the noise is on this hand
uniform vec4 detail_frame;  // of the detail maps on the flat hand: low corner, 1 / size
uniform sampler2DArray detail_map;  // palm, back: height, cavity, flush, nail
uniform sampler2D noise_map;  // blotches, mottling, fine height, veins
uniform mat4 shadow_from_world;
uniform mat3 ray_from_sample;  // with z of the camera 1, in the world
uniform vec3 fill_direction;
uniform vec3 fill;
uniform vec3 sky;
uniform vec3 ground;
uniform sampler2D facings;  // see skin_fragment
uniform sampler2D sites;
out vec4 colour;  // with the label

const float NOISE_SIZE = 0.13;  // m
const vec4 NEUTRAL = vec4(0.5, 0.0, 0.0, 0.0);

// Bends the normal by a height (m), from its change across the screen (Mikkelsen 2010).
vec3 bent(vec3 n, vec3 place, float height) {
    vec3 px = dFdx(place), py = dFdy(place);
    if (dot(px, px) + dot(py, py) > 1e-4) return n;  // across an outline
    vec3 rx = cross(py, n), ry = cross(n, px);
    float det = dot(px, rx);
    vec3 slope = sign(det) * (dFdx(height) * rx + dFdy(height) * ry);
    return normalize(abs(det) * n - slope);
}

float fifth(float x) {
    return x * x * x * x * x;
}

// Microfacet highlight of the key light (GGX distribution, Kelemen's visibility) times the cosine at the light.
float highlight(vec3 n, vec3 v, float facing, float roughness, float f0) {
    vec3 h = normalize(key_direction + v);
    float nh = max(dot(n, h), 0.0), lh = max(dot(key_direction, h), 0.1);
    float a2 = roughness * roughness * roughness * roughness;
    float d = nh * nh * (a2 - 1.0) + 1.0;
    float fresnel = f0 + (1.0 - f0) * fifth(1.0 - lh);
    return min(a2 / (d * d) * fresnel / (4.0 * lh * lh), 4.0) * facing;
}

void main() {
    vec4 facing = texelFetch(facings, ivec2(gl_FragCoord.xy), 0);
    vec4 site = texelFetch(sites, ivec2(gl_FragCoord.xy), 0);
    float label = floor(site.w), openness = site.w - label, dorsal = site.z;
    if (label != labels.x && label != labels.y) discard;  // the other hand
    vec3 position = eye + facing.w * (ray_from_sample * vec3(gl_FragCoord.xy, 1.0));
    vec4 detail = texture(detail_map, vec3((site.xy - detail_frame.xy) * detail_frame.zw, dorsal > 0.0 ? 1.0 : 0.0));
    // The maps are seen from straight above: on the sides of the fingers they fade out.
    detail = mix(NEUTRAL, detail, smoothstep(0.0, 0.35, abs(dorsal)));
    vec4 noise = texture(noise_map, site.xy / NOISE_SIZE + skin_place);

    float of_back = smoothstep(-0.65, 0.4, dorsal + 0.3 * (noise.x - 0.5));
    vec3 albedo = mix(skin_palm, skin_back, of_back);
    albedo *= 1.0 + marks.y * (vec3(0.34, 0.32, 0.12) * (noise.x - 0.5) + vec3(0.20, 0.22, 0.12) * (noise.y - 0.5));
    albedo *= 1.0 - marks.x * detail.z * vec3(0.26, 0.30, 0.03);
    albedo *= 1.0 - marks.z * detail.y * vec3(0.62, 0.58, 0.42);
    float vein = marks.w * noise.w * smoothstep(0.3, 0.8, dorsal) * (1.0 - detail.y);
    albedo *= 1.0 - vein * vec3(0.06, 0.14, 0.26);
    albedo = mix(albedo, skin_nail * (0.92 + 0.16 * noise.x), detail.w);

    float height = finish.x * ((detail.x - 0.5) * 0.003 + (noise.z - 0.5) * 0.0005 * (1.0 - detail.w)) + vein * 0.0006;
    vec3 smooth_n = normalize(facing.xyz);
    vec3 n = bent(smooth_n, position, height);
    vec3 v = normalize(eye - position);
    // Tested a little above the skin, so that it does not shade itself.
    float share = key_share((shadow_from_world * vec4(position + 0.0025 * smooth_n, 1.0)).xyz);

    // Light that enters the skin leaves it some millimetres away, red the farthest: past the terminator it is red.
    float cosine = dot(n, key_direction), lit = max(cosine, 0.0);
    const vec3 wrap = vec3(0.08, 0.13, 0.34);
    vec3 wrapped = max((cosine + wrap) / (1.0 + wrap), 0.0);
    vec3 shadow = share * (1.0 + vec3(-0.05, 0.0, 0.3) * (1.0 - share));
    vec3 light = key * (lit * shadow + max(wrapped - lit, 0.0) * mix(shadow, vec3(1.0), 0.4) * openness);
    vec3 soft_light = mix(ground, sky, 0.5 + 0.5 * smooth_n.z) + fill * (0.75 * max(dot(smooth_n, fill_direction), 0.0) + 0.08);
    float cavity = openness * (1.0 - 0.35 * detail.y);
    // Light between fingers has met skin before: deep places are dark and saturated.
    light += soft_light * cavity * (1.0 + 0.6 * albedo * (1.0 - cavity));

    float roughness = mix(finish.y, 0.28, detail.w);
    float f0 = mix(finish.z, 0.05, detail.w);
    float gloss = mix(1.0, finish.w * 1.6, detail.w) * (1.0 - 0.6 * detail.y);
    float grazing = fifth(1.0 - max(dot(n, v), 0.0));
    vec3 shine = key * share * highlight(n, v, lit, roughness, f0)
               + soft_light * openness * (f0 + 0.25 * grazing) * (1.0 - roughness);
    colour = vec4(min(albedo * light + gloss * shine, 1.0), label);
}
