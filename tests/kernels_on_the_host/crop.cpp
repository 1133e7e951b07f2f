// The crop kernels' bodies in plain loops over blocks and threads, for tests.
#include "crop.cuh"

// BGR levels as they are looked up, before they are normalized. `out` (n, size, size, 3), rounded.
static void crop_rounded(
    const CropView* crops, const CameraFrame* cameras, int size, const CropPixel& pixel, uint8_t* out) {
    if (outside(pixel, size)) return;
    const Colour colour = cropped(crops, cameras, size, pixel);
    uint8_t* bgr = out + 3 * ((static_cast<size_t>(pixel.crop) * size + pixel.row) * size + pixel.column);
    bgr[0] = static_cast<uint8_t>(colour.blue + 0.5f);
    bgr[1] = static_cast<uint8_t>(colour.green + 0.5f);
    bgr[2] = static_cast<uint8_t>(colour.red + 0.5f);
}

// Blocks of 32 x 8 threads, as on the device: the last ones stand out over the crop's edges.
template <typename Body>
static void launch(int count, int size, Body body) {
    const int columns = (size + 31) / 32 * 32, rows = (size + 7) / 8 * 8;
    for (int crop = 0; crop < count; ++crop)
        for (int row = 0; row < rows; ++row)
            for (int column = 0; column < columns; ++column) body(CropPixel{crop, column, row});
}

extern "C" void crop_normalized_half(
    const CropView* crops, const CameraFrame* cameras, int count, int size, Half* out) {
    launch(count, size, [=](const CropPixel& pixel) { crop_normalized(crops, cameras, size, pixel, out); });
}

extern "C" void crop_normalized_float(
    const CropView* crops, const CameraFrame* cameras, int count, int size, float* out) {
    launch(count, size, [=](const CropPixel& pixel) { crop_normalized(crops, cameras, size, pixel, out); });
}

extern "C" void crop_bgr(const CropView* crops, const CameraFrame* cameras, int count, int size, uint8_t* out) {
    launch(count, size, [=](const CropPixel& pixel) { crop_rounded(crops, cameras, size, pixel, out); });
}
