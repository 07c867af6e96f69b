// The kernels of posedge as C++ for a CPU: threads and blocks are loops. It shows what they compute and
// measures nothing.
//
// g++ -std=c++17 -O2 -ffp-contract=off -shared -fPIC -I runtime/cuda tests/runtime/cuda/shim.cpp

#include <cmath>
#include <cstring>

struct dim3 {
    unsigned x, y, z;
};

static thread_local dim3 gridDim, blockDim, blockIdx, threadIdx;

#define __global__
#define __device__
#define __noinline__

static float half_to_float(unsigned short bits) {
    unsigned exponent = bits >> 10 & 31, fraction = bits & 1023;
    float size = exponent == 0    ? std::ldexp((float)fraction, -24)
                 : exponent == 31 ? (fraction ? NAN : INFINITY)
                                  : std::ldexp((float)(fraction + 1024), (int)exponent - 25);
    return bits & 0x8000 ? -size : size;
}

// To nearest, ties to even, as cvt.rn does.
static unsigned short float_to_half(float value) {
    unsigned short sign = std::signbit(value) ? 0x8000 : 0;
    float size = std::fabs(value);
    if (size != size) return 0x7fff;
    if (size >= 65520) return sign | 0x7c00;
    int exponent = 0;
    std::frexp(size, &exponent);  // size < 2^exponent
    int last = exponent < -13 ? -24 : exponent - 11;  // exponent of the half's last bit
    unsigned steps = (unsigned)std::nearbyint(std::ldexp(size, -last));
    // a carry into the next power of two comes out right, since exponent and fraction are neighbours
    return sign | (unsigned short)(((unsigned)(last + 24) << 10) + steps);
}

#include "kernels.cu"

template <class Arguments>
static void run(void (*kernel)(Arguments), const unsigned* grid, const unsigned* block, void** arguments) {
    Arguments copy = *(Arguments*)arguments[0];
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++)
                for (threadIdx.z = 0; threadIdx.z < block[2]; threadIdx.z++)
                    for (threadIdx.y = 0; threadIdx.y < block[1]; threadIdx.y++)
                        for (threadIdx.x = 0; threadIdx.x < block[0]; threadIdx.x++) kernel(copy);
}

// Size in bytes of a kernel's only argument.
template <class Arguments>
static int size_of(void (*)(Arguments)) {
    return sizeof(Arguments);
}

#define EVERY_KERNEL(use)                                                                          \
    use(warp_normalize) use(merge_flip) use(find_maxima) use(find_blurred_maxima) use(decode_msra) \
    use(decode_megvii) use(blur_patches) use(blur_low_maps) use(decode_unbiased) use(decode_simcc)

// Run one kernel to its end. grid and block: three numbers each; arguments: pointers to the kernel's
// arguments, as cuLaunchKernel takes them. Returns 0, or 1 where there is no kernel of that name.
extern "C" int posedge_launch(const char* name, const unsigned* grid, const unsigned* block, void** arguments) {
#define RUN(kernel) \
    if (!std::strcmp(name, #kernel)) return run(kernel, grid, block, arguments), 0;
    EVERY_KERNEL(RUN)
    return 1;
}

// Size in bytes of what a kernel takes, -1 where there is no kernel of that name.
extern "C" int posedge_argument_size(const char* name) {
#define SIZE(kernel) \
    if (!std::strcmp(name, #kernel)) return size_of(kernel);
    EVERY_KERNEL(SIZE)
    return -1;
}
