// From samples to pixels. Sample density * p lies at pixel p of the pinhole picture. Labels and depth are those of the
// nearest sample; colour is weighted over the samples within a pixel's width.
uniform sampler2D samples;
uniform sampler2D sample_depth;
uniform sampler2D lens;  // places of the pixels in the pinhole picture
uniform float bent;  // 1 with a lens, 0 where pixels are in their own places
uniform float density;  // samples per pixel, each way
uniform vec2 tile;  // size of one view, in pixels and in samples: neighbours in the atlas must not mix
uniform vec2 sample_tile;
layout(location = 0) out vec4 colour;
layout(location = 1) out float depth;
void main() {
    vec2 pixel = floor(gl_FragCoord.xy);
    vec2 view = floor(pixel / tile);
    vec2 place = bent > 0.5 ? texelFetch(lens, ivec2(pixel), 0).xy : pixel - view * tile;
    vec2 first = view * sample_tile + 0.5;
    vec2 last = first + sample_tile - 1.0;
    vec2 centre = first + density * place;
    vec2 low = clamp(centre - 0.5, first, last), high = clamp(centre + 0.5, first, last);
    vec2 size = vec2(textureSize(samples, 0));
    // Each look, between samples, averages four of them.
    vec3 sum = texture(samples, low / size).rgb + texture(samples, high / size).rgb
             + texture(samples, vec2(low.x, high.y) / size).rgb + texture(samples, vec2(high.x, low.y) / size).rgb;
    ivec2 nearest = ivec2(clamp(floor(centre - first + 0.5) + first, first, last));
    float seen = place.x < -5.0 ? 0.0 : 1.0;  // no ray meets the pixel
    colour = seen * vec4(0.25 * sum, texelFetch(samples, nearest, 0).a);
    depth = seen * texelFetch(sample_depth, nearest, 0).r;
}
