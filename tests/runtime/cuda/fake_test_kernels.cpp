// Two kernels for tests of the driver layer: scalars as arguments, and one struct by value.
struct Index {
    unsigned x, y, z;
};
static thread_local Index threadIdx, blockIdx, blockDim, gridDim;

struct Scaling {
    float *values;
    int count;
    float factor;
};

static int thread_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

void add(float *values, int count, double term) {
    int i = thread_index();
    if (i < count) values[i] += float(term);
}

void scale(Scaling s) {
    int i = thread_index();
    if (i < s.count) s.values[i] *= s.factor;
}

#include "fake_kernels.hpp"
FAKE_KERNEL(add)
FAKE_KERNEL(scale)
