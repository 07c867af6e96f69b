// From an image to a network's input and from its outputs to keypoints, on the device.
//
// Compiled by NVRTC without any header (compile.py), and as C++ for a CPU by the tests. One thread makes one
// output pixel, one column or one joint; there is no shared memory, no barrier and no atomic operation.
// Formulas and the order of their operations are those of runtime/preprocess.py, heatmaps.py, blur.py and
// simcc.py; compiled without contraction (--fmad=false) they round alike.
//
// Every kernel takes one structure by value; kernels.py has the same structures and the launch dimensions.
// What changes from one image to the next is in device memory (Crop), so that a captured graph stays valid.

typedef unsigned char uint8;
typedef unsigned short uint16;
typedef unsigned int uint32;
typedef long long int64;

#ifdef __CUDACC__
__device__ inline float half_to_float(uint16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ inline uint16 float_to_half(float value) {
    uint16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif  // elsewhere they are defined before this file is included

enum PixelFormat { BGR = 0, RGB = 1, GREY = 2, NV12 = 3 };

// One person: where the image is, which part of it the crop shows, and the same rectangle for the way back.
struct Crop {
    const uint8* pixels;  // first row of the image, of NV12 the luma plane
    const uint8* chroma;  // of NV12 the plane of U, V pairs, one for 2 x 2 pixels
    int64 left, top;  // image coordinates of the crop's first pixel, 32.32 fixed point
    int64 step_x, step_y;  // image pixels from one pixel of the crop to the next, likewise
    int width, height;  // of the image; 0 for no image: the crop is all border
    int pitch, chroma_pitch;  // bytes from one row to the next
    int format;  // PixelFormat
    float centre_x, centre_y, scale_x, scale_y;  // image pixels
};

struct WarpArguments {
    const Crop* crops;  // (count)
    void* batch;  // (count, 3, height, width), float32 or float16
    void* mirrored;  // the same mirrored left to right, or null
    int count, height, width;
    int half;  // whether batch and mirrored are float16
    int bgr;  // whether plane 0 is blue and plane 2 red
    int whole_levels;  // round to whole grey levels before normalising, as a crop of bytes is
    float mean[3], std[3];  // of the planes
    float yuv[6];  // of NV12: zero and gain of luma; red of V; green of U and of V; blue of U
};

struct Colour {
    float red, green, blue;
};

__device__ inline float level(float value) { return value < 0 ? 0 : value > 255 ? 255 : value; }

__device__ inline Colour pixel_at(const Crop& crop, const float* yuv, int x, int y) {
    const uint8* row = crop.pixels + (int64)y * crop.pitch;
    if (crop.format == GREY) {
        float grey = row[x];
        return {grey, grey, grey};
    }
    if (crop.format == NV12) {
        const uint8* pair = crop.chroma + (int64)(y / 2) * crop.chroma_pitch + (x & ~1);
        float luma = (row[x] - yuv[0]) * yuv[1];
        float u = pair[0] - 128.0f, v = pair[1] - 128.0f;
        return {level(luma + yuv[2] * v), level(luma + yuv[3] * u + yuv[4] * v), level(luma + yuv[5] * u)};
    }
    const uint8* pixel = row + 3 * (int64)x;
    if (crop.format == RGB) return {(float)pixel[0], (float)pixel[1], (float)pixel[2]};
    return {(float)pixel[2], (float)pixel[1], (float)pixel[0]};
}

// Bilinear, zero outside the image. Fixed point keeps the weights exact to 2^-32 pixel at any coordinate,
// where float32 would lose digits in large images and float64 is slow on small devices.
__device__ inline Colour sample(const Crop& crop, const float* yuv, int64 across, int64 down, float start) {
    Colour total = {start, start, start};
    int x = (int)(across >> 32), y = (int)(down >> 32);
    if (x < -1 || x >= crop.width || y < -1 || y >= crop.height) return total;
    float right = (float)(uint32)across * 2.3283064365386963e-10f;
    float lower = (float)(uint32)down * 2.3283064365386963e-10f;
    for (int row = 0; row < 2; row++) {
        if (y + row < 0 || y + row >= crop.height) continue;
        for (int column = 0; column < 2; column++) {
            if (x + column < 0 || x + column >= crop.width) continue;
            float weight = (row ? lower : 1 - lower) * (column ? right : 1 - right);
            Colour pixel = pixel_at(crop, yuv, x + column, y + row);
            total.red += weight * pixel.red;
            total.green += weight * pixel.green;
            total.blue += weight * pixel.blue;
        }
    }
    return total;
}

__device__ inline void store(void* array, int half, int64 index, float value) {
    if (half)
        ((uint16*)array)[index] = float_to_half(value);
    else
        ((float*)array)[index] = value;
}

// Grid: (columns of the crop, rows, crops).
extern "C" __global__ void warp_normalize(const WarpArguments a) {
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    int n = blockIdx.z;
    if (x >= a.width || y >= a.height || n >= a.count) return;
    const Crop& crop = a.crops[n];
    float start = a.whole_levels ? 0.5f : 0;  // cutting the fraction off then rounds
    Colour colour = sample(crop, a.yuv, crop.left + x * crop.step_x, crop.top + y * crop.step_y, start);
    float planes[3] = {a.bgr ? colour.blue : colour.red, colour.green, a.bgr ? colour.red : colour.blue};
    for (int plane = 0; plane < 3; plane++) {
        float value = a.whole_levels ? (float)(int)planes[plane] : planes[plane];
        value = (value - a.mean[plane]) / a.std[plane];
        int64 row = (((int64)n * 3 + plane) * a.height + y) * a.width;
        store(a.batch, a.half, row + x, value);
        if (a.mirrored) store(a.mirrored, a.half, row + a.width - 1 - x, value);
    }
}
