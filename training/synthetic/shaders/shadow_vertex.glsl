uniform mat4 shadow_from_world;
in vec3 in_position;
void main() {
    gl_Position = vec4((shadow_from_world * vec4(in_position, 1.0)).xyz * 2.0 - 1.0, 1.0);
}
