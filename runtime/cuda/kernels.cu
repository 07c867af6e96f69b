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
    int whole_levels;  // make the bytes that OpenCV 5 makes before normalising, else bilinear without rounding
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
        float luma = (row[x] > yuv[0] ? row[x] - yuv[0] : 0) * yuv[1];  // below black is black, as in OpenCV
        float u = pair[0] - 128.0f, v = pair[1] - 128.0f;
        return {level(luma + yuv[2] * v), level(luma + yuv[3] * u + yuv[4] * v), level(luma + yuv[5] * u)};
    }
    const uint8* pixel = row + 3 * (int64)x;
    if (crop.format == RGB) return {(float)pixel[0], (float)pixel[1], (float)pixel[2]};
    return {(float)pixel[2], (float)pixel[1], (float)pixel[0]};
}

// The pixel before a position on an axis, and how far behind it the position is.
struct Place {
    int first;
    float part;
};

// Fixed point keeps the part exact to 2^-32 pixel at any coordinate, where float32 would lose digits in large
// images and float64 is slow on small devices.
__device__ inline Place exact_place(int64 start, int64 step, int index) {
    int64 position = start + index * step;
    return {(int)(position >> 32), (float)(uint32)position * 2.3283064365386963e-10f};
}

__device__ inline float from_fixed(int64 value) { return (float)value * 2.3283064365386963e-10f; }

__device__ inline Place single_place(float position) {
    float first = floorf(position);
    return {(int)first, position - first};
}

__device__ inline float between(float a, float b, float part) { return fmaf(part, b - a, a); }

// Bilinear, zero outside the image.
__device__ inline Colour sample(const Crop& crop, const WarpArguments& a, Place x, Place y) {
    Colour p[2][2] = {};
    for (int row = 0; row < 2; row++)
        for (int column = 0; column < 2; column++)
            if (x.first >= -column && x.first < crop.width - column && y.first >= -row &&
                y.first < crop.height - row)
                p[row][column] = pixel_at(crop, a.yuv, x.first + column, y.first + row);
    if (a.whole_levels) {
        // OpenCV's order of operations, which decides the last digit and so some of the roundings
        Colour rows[2];
        for (int row = 0; row < 2; row++)
            rows[row] = {between(p[row][0].red, p[row][1].red, x.part),
                         between(p[row][0].green, p[row][1].green, x.part),
                         between(p[row][0].blue, p[row][1].blue, x.part)};
        return {rintf(between(rows[0].red, rows[1].red, y.part)),
                rintf(between(rows[0].green, rows[1].green, y.part)),
                rintf(between(rows[0].blue, rows[1].blue, y.part))};
    }
    Colour total = {0, 0, 0};
    for (int row = 0; row < 2; row++)
        for (int column = 0; column < 2; column++) {
            float weight = (row ? y.part : 1 - y.part) * (column ? x.part : 1 - x.part);
            total.red += weight * p[row][column].red;
            total.green += weight * p[row][column].green;
            total.blue += weight * p[row][column].blue;
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
    Place across = exact_place(crop.left, crop.step_x, x), down = exact_place(crop.top, crop.step_y, y);
    if (a.whole_levels) {
        // OpenCV 5 has float32 positions, along x with one rounding and along y with two
        across = single_place(fmaf(from_fixed(crop.step_x), x, from_fixed(crop.left)));
        down = single_place(from_fixed(crop.step_y) * y + from_fixed(crop.top));
    }
    Colour colour = sample(crop, a, across, down);
    float planes[3] = {a.bgr ? colour.blue : colour.red, colour.green, a.bgr ? colour.red : colour.blue};
    for (int plane = 0; plane < 3; plane++) {
        float value = (planes[plane] - a.mean[plane]) / a.std[plane];
        int64 row = (((int64)n * 3 + plane) * a.height + y) * a.width;
        store(a.batch, a.half, row + x, value);
        if (a.mirrored) store(a.mirrored, a.half, row + a.width - 1 - x, value);
    }
}

// The first maximum of some pixels of a map, place being row * width + column. As in numpy a NaN is above
// every number, and of equal values the first wins.
struct Peak {
    float value;
    int place;
};

struct ScanArguments {
    const void* maps;  // (count, size), float32 or float16; with a blur of rows of `columns` pixels
    Peak* peaks;  // (count, columns): the first maximum of the pixels column, column + columns, ...
    Peak* blurred;  // the same of the blurred maps; find_maxima does not use it
    int count, size, columns;
    int half;  // whether maps are float16
};

struct MergeArguments {
    const void* maps;  // (persons, joints, height, width), float32 or float16
    const void* mirrored;  // of the mirrored crops
    const int* partner;  // (joints): which joint of a mirrored image each joint is
    float* merged;  // (persons, joints, height, width)
    int persons, joints, height, width;
    int half;  // whether maps and mirrored are float16
    int turn;  // whether x runs the other way in the mirrored maps
    int shift;  // whether the turned maps move one pixel to the right, column 0 keeping its value
};

struct DecodeArguments {
    const void* maps;  // (persons, joints, height, width), float32 or float16
    const Crop* crops;  // (persons)
    const Peak* peaks;  // (persons * joints, width), what find_maxima or find_blurred_maxima wrote
    Peak* blurred;  // the same of the blurred maps: megvii's and, where needed, unbiased's
    const float* weights;  // (2 * reach + 1), the Gaussian of the unbiased decoder
    float* patches;  // (persons * joints, 25), the unbiased decoder's blurred pixels around each peak
    float* keypoints;  // (persons, joints, 3): x and y in image pixels, score
    int persons, joints, height, width;
    int half;  // whether maps are float16
    int reach;
    int clip;  // scores to 0 ... 1, those that are not finite to 0
};

struct SimccArguments {
    const Crop* crops;  // (persons)
    const Peak* x;  // (persons * joints, x_columns), what find_maxima wrote of the distributions
    const Peak* y;
    float* keypoints;  // (persons, joints, 3)
    int persons, joints;
    int x_columns, y_columns;
    int width, height;  // of the network's input
    float split_ratio;
    int clip;
};

__device__ inline int thread_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

__device__ inline float load(const float* value) { return *value; }
__device__ inline float load(const uint16* value) { return half_to_float(*value); }

__device__ inline bool above(Peak a, Peak b) {
    bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    if (a_nan != b_nan) return a_nan;
    return a.value > b.value || ((a_nan || a.value == b.value) && a.place < b.place);
}

__device__ inline Peak first_maximum(const Peak* peaks, int columns) {
    Peak best = peaks[0];
    for (int column = 1; column < columns; column++)
        if (above(peaks[column], best)) best = peaks[column];
    return best;
}

// -1, 0 or 1, and NaN of NaN.
__device__ inline float sign(float value) {
    return value != value ? value : (float)((value > 0) - (value < 0));
}

template <class Value>
__device__ Peak column_maximum(const Value* map, int column, int columns, int size) {
    Peak best = {load(map + column), column};
    for (int place = column + columns; place < size; place += columns) {
        Peak next = {load(map + place), place};
        if (above(next, best)) best = next;
    }
    return best;
}

// Threads: count * columns. Neighbouring threads read neighbouring pixels.
extern "C" __global__ void find_maxima(const ScanArguments a) {
    int thread = thread_index();
    if (thread >= a.count * a.columns) return;
    int column = thread % a.columns;
    int64 first = (int64)(thread / a.columns) * a.size;
    a.peaks[thread] = a.half ? column_maximum((const uint16*)a.maps + first, column, a.columns, a.size)
                             : column_maximum((const float*)a.maps + first, column, a.columns, a.size);
}

// 1, 4, 6, 4, 1 by sums of neighbours, in the order in which blur.py adds.
__device__ inline float binomial(const float* v) {
    float a = v[0] + v[1], b = v[1] + v[2], c = v[2] + v[3], d = v[3] + v[4];
    float e = a + b, f = b + c, g = c + d;
    return (e + f) + (f + g);
}

template <class Value>
__device__ float binomial_row(const Value* map, int height, int width, int x, int y) {
    if (y < 0 || y >= height) return 0;
    float v[5];
    for (int k = 0; k < 5; k++) {
        int column = x + k - 2;
        v[k] = column < 0 || column >= width ? 0 : load(map + y * width + column);
    }
    return binomial(v);
}

template <class Value>
__device__ float binomial_at(const Value* map, int height, int width, int x, int y) {
    float rows[5];
    for (int k = 0; k < 5; k++) rows[k] = binomial_row(map, height, width, x, y + k - 2);
    return binomial(rows) * (1.0f / 256);
}

template <class Value>
__device__ Peak blurred_column_maximum(const Value* map, int column, int columns, int size) {
    int height = size / columns;
    float rows[5] = {0, 0, 0};
    for (int y = 0; y < 2; y++) rows[y + 3] = binomial_row(map, height, columns, column, y);
    Peak best = {0, -1};
    for (int y = 0; y < height; y++) {
        for (int k = 0; k < 4; k++) rows[k] = rows[k + 1];
        rows[4] = binomial_row(map, height, columns, column, y + 2);
        Peak next = {binomial(rows) * (1.0f / 256), y * columns + column};
        if (best.place < 0 || above(next, best)) best = next;
    }
    return best;
}

// Threads: count * columns. The maxima of the maps and of the maps under Megvii's 5x5 blur.
extern "C" __global__ void find_blurred_maxima(const ScanArguments a) {
    int thread = thread_index();
    if (thread >= a.count * a.columns) return;
    int column = thread % a.columns;
    int64 first = (int64)(thread / a.columns) * a.size;
    if (a.half) {
        const uint16* map = (const uint16*)a.maps + first;
        a.peaks[thread] = column_maximum(map, column, a.columns, a.size);
        a.blurred[thread] = blurred_column_maximum(map, column, a.columns, a.size);
    } else {
        const float* map = (const float*)a.maps + first;
        a.peaks[thread] = column_maximum(map, column, a.columns, a.size);
        a.blurred[thread] = blurred_column_maximum(map, column, a.columns, a.size);
    }
}

// Threads: persons * joints * height * width. SimCC's distributions are maps of height 1.
extern "C" __global__ void merge_flip(const MergeArguments a) {
    int thread = thread_index();
    if (thread >= a.persons * a.joints * a.height * a.width) return;
    int x = thread % a.width, y = thread / a.width % a.height, map = thread / a.width / a.height;
    int column = a.shift && x > 0 ? x - 1 : x;
    if (a.turn) column = a.width - 1 - column;
    int64 partner = map / a.joints * a.joints + a.partner[map % a.joints];
    int64 other = (partner * a.height + y) * a.width + column;
    float sum = a.half ? load((const uint16*)a.maps + thread) + load((const uint16*)a.mirrored + other)
                       : load((const float*)a.maps + thread) + load((const float*)a.mirrored + other);
    a.merged[thread] = sum * 0.5f;
}

// Where a peak is: x, y in pixels of the map, -1 where it is not positive.
__device__ inline void locate(Peak peak, int width, float* x, float* y) {
    bool found = !(peak.value <= 0);
    *x = found ? peak.place % width : -1;
    *y = found ? peak.place / width : -1;
}

// x and y of a grid of so many pixels to image pixels, and the score.
__device__ inline void write_keypoint(float* keypoint, const Crop& crop, float x, float y, float score,
                                      int width, int height, int clip) {
    keypoint[0] = x * (crop.scale_x / (float)width) + (crop.centre_x - crop.scale_x * 0.5f);
    keypoint[1] = y * (crop.scale_y / (float)height) + (crop.centre_y - crop.scale_y * 0.5f);
    bool finite = score - score == 0;
    if (clip) score = !finite || score < 0 ? 0 : score > 1 ? 1 : score;
    keypoint[2] = score;
}

__device__ inline void write_joint(const DecodeArguments& a, int map, float x, float y, float score) {
    write_keypoint(a.keypoints + 3 * map, a.crops[map / a.joints], x, y, score, a.width, a.height, a.clip);
}

__device__ inline float map_value(const DecodeArguments& a, int map, int x, int y) {
    int64 place = ((int64)map * a.height + y) * a.width + x;
    return a.half ? load((const uint16*)a.maps + place) : load((const float*)a.maps + place);
}

// Threads: persons * joints, after find_maxima.
extern "C" __global__ void decode_msra(const DecodeArguments a) {
    int map = thread_index();
    if (map >= a.persons * a.joints) return;
    Peak peak = first_maximum(a.peaks + (int64)map * a.width, a.width);
    float x, y;
    locate(peak, a.width, &x, &y);
    int column = (int)x, row = (int)y;
    if (column > 1 && column < a.width - 1 && row > 0)
        x += 0.25f * sign(map_value(a, map, column + 1, row) - map_value(a, map, column - 1, row));
    if (row > 1 && row < a.height - 1 && column > 0)
        y += 0.25f * sign(map_value(a, map, column, row + 1) - map_value(a, map, column, row - 1));
    write_joint(a, map, x, y, peak.value);
}

__device__ __noinline__ float megvii_blur(const DecodeArguments& a, int map, int x, int y) {
    int64 first = (int64)map * a.height * a.width;
    return a.half ? binomial_at((const uint16*)a.maps + first, a.height, a.width, x, y)
                  : binomial_at((const float*)a.maps + first, a.height, a.width, x, y);
}

// Threads: persons * joints, after find_blurred_maxima.
extern "C" __global__ void decode_megvii(const DecodeArguments a) {
    int map = thread_index();
    if (map >= a.persons * a.joints) return;
    float top = first_maximum(a.peaks + (int64)map * a.width, a.width).value;
    Peak peak = first_maximum(a.blurred + (int64)map * a.width, a.width);
    float factor = 1, maximum = top;
    if (!(peak.value > 0)) {
        // Rescaled to its old maximum, a map without a positive blurred peak is NaN, or keeps its order, or
        // turns its sign; only then its peak is elsewhere.
        factor = top / peak.value;
        if (factor != factor) {
            peak = {factor, 0};
        } else if (factor < 0) {
            peak = {megvii_blur(a, map, 0, 0) * factor, 0};
            for (int place = 1; place < a.height * a.width; place++) {
                Peak next = {megvii_blur(a, map, place % a.width, place / a.width) * factor, place};
                if (above(next, peak)) peak = next;
            }
        } else {
            peak.value *= factor;
        }
        maximum = peak.value;
    }
    float x, y;
    locate(peak, a.width, &x, &y);
    int column = (int)x, row = (int)y;
    if (column > 1 && column < a.width - 1 && row > 1 && row < a.height - 1) {
        float right = megvii_blur(a, map, column + 1, row) * factor;
        float left = megvii_blur(a, map, column - 1, row) * factor;
        float lower = megvii_blur(a, map, column, row + 1) * factor;
        float upper = megvii_blur(a, map, column, row - 1) * factor;
        x += 0.25f * sign(right - left) + 0.5f;
        y += 0.25f * sign(lower - upper) + 0.5f;
    }
    write_joint(a, map, x, y, maximum / 255.0f + 0.5f);
}

__device__ __noinline__ float gaussian_blur(const DecodeArguments& a, int map, int x, int y) {
    float total = 0;
    for (int column = x - a.reach; column <= x + a.reach; column++) {
        if (column < 0 || column >= a.width) continue;
        float sum = 0;
        for (int row = y - a.reach; row <= y + a.reach; row++)
            if (row >= 0 && row < a.height)
                sum += a.weights[row - y + a.reach] * map_value(a, map, column, row);
        total += sum * a.weights[column - x + a.reach];
    }
    return total;
}

// Threads: persons * joints * 25, after find_maxima. A peak too near to the border to be moved gets ones,
// on which there is no step.
extern "C" __global__ void blur_patches(const DecodeArguments a) {
    int thread = thread_index();
    if (thread >= a.persons * a.joints * 25) return;
    int map = thread / 25;
    float x, y;
    locate(first_maximum(a.peaks + (int64)map * a.width, a.width), a.width, &x, &y);
    int column = (int)x, row = (int)y;
    bool inside = column > 1 && column < a.width - 2 && row > 1 && row < a.height - 2;
    a.patches[thread] =
        inside ? gaussian_blur(a, map, column + thread % 5 - 2, row + thread % 25 / 5 - 2) : 1.0f;
}

__device__ const float LOG_FLOOR = 1e-10f;

// Whether the rescaling of a blurred map matters: where a pixel around the peak is below the floor or NaN.
__device__ inline bool is_low(const float* patch) {
    for (int k = 0; k < 25; k++)
        if (!(patch[k] >= LOG_FLOOR)) return true;
    return false;
}

// Threads: persons * joints * width, after blur_patches. Works only for the few maps that need it.
extern "C" __global__ void blur_low_maps(const DecodeArguments a) {
    int thread = thread_index();
    if (thread >= a.persons * a.joints * a.width) return;
    int map = thread / a.width, column = thread % a.width;
    if (!is_low(a.patches + 25 * (int64)map)) return;
    Peak best = {gaussian_blur(a, map, column, 0), column};
    for (int row = 1; row < a.height; row++) {
        Peak next = {gaussian_blur(a, map, column, row), row * a.width + column};
        if (above(next, best)) best = next;
    }
    a.blurred[thread] = best;
}

// Threads: persons * joints, after blur_low_maps.
extern "C" __global__ void decode_unbiased(const DecodeArguments a) {
    int map = thread_index();
    if (map >= a.persons * a.joints) return;
    Peak peak = first_maximum(a.peaks + (int64)map * a.width, a.width);
    const float* patch = a.patches + 25 * (int64)map;
    float factor = 1;
    if (is_low(patch)) factor = peak.value / first_maximum(a.blurred + (int64)map * a.width, a.width).value;
    float p[5][5];
    for (int k = 0; k < 25; k++) {
        float value = patch[k] * factor;
        p[k / 5][k % 5] = logf(value < LOG_FLOOR ? LOG_FLOOR : value);
    }
    float dx = 0.5f * (p[2][3] - p[2][1]);
    float dy = 0.5f * (p[3][2] - p[1][2]);
    float dxx = 0.25f * (p[2][4] - 2 * p[2][2] + p[2][0]);
    float dyy = 0.25f * (p[4][2] - 2 * p[2][2] + p[0][2]);
    float dxy = 0.25f * (p[3][3] - p[1][3] - p[3][1] + p[1][1]);
    float determinant = dxx * dyy - dxy * dxy;
    float x, y;
    locate(peak, a.width, &x, &y);
    if (determinant != 0) {
        float inverse = 1 / determinant;
        x += (dxy * dy - dyy * dx) * inverse;
        y += (dxy * dx - dxx * dy) * inverse;
    }
    write_joint(a, map, x, y, peak.value);
}

// Threads: persons * joints, after find_maxima of both distributions.
extern "C" __global__ void decode_simcc(const SimccArguments a) {
    int joint = thread_index();
    if (joint >= a.persons * a.joints) return;
    Peak x = first_maximum(a.x + (int64)joint * a.x_columns, a.x_columns);
    Peak y = first_maximum(a.y + (int64)joint * a.y_columns, a.y_columns);
    // the lower of the two, and NaN where one is
    float score = x.value != x.value || x.value < y.value ? x.value : y.value;
    bool found = !(score <= 0);
    float column = found ? x.place : -1, row = found ? y.place : -1;
    write_keypoint(a.keypoints + 3 * joint, a.crops[joint / a.joints], column / a.split_ratio,
                   row / a.split_ratio, score, a.width, a.height, a.clip);
}
