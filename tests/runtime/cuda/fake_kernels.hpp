// How kernels that g++ compiled are handed to the stand-in driver.
//
// A library of kernels defines threadIdx, blockIdx, blockDim and gridDim (members x, y, z), includes the .cu
// file, and then says FAKE_KERNEL(name) for each kernel. FAKE_CUDA_KERNELS names the libraries, joined by ":".
#pragma once
#include <cstddef>
#include <type_traits>
#include <utility>

template <typename... Arguments> struct FakeCall {
    static constexpr size_t sizes[] = {sizeof(Arguments)..., 0};
    static constexpr size_t alignments[] = {alignof(Arguments)..., 0};
    template <size_t... I>
    static void call(void (*kernel)(Arguments...), void **arguments, std::index_sequence<I...>) {
        kernel(*static_cast<std::remove_reference_t<Arguments> *>(arguments[I])...);
    }
    static void call(void (*kernel)(Arguments...), void **arguments) {
        call(kernel, arguments, std::index_sequence_for<Arguments...>());
    }
};
template <typename... Arguments> FakeCall<Arguments...> fake_call(void (*)(Arguments...));

#define FAKE_KERNEL(name)                                                                                   \
    extern "C" const size_t *fake_sizes_##name() { return decltype(fake_call(&name))::sizes; }              \
    extern "C" const size_t *fake_alignments_##name() { return decltype(fake_call(&name))::alignments; }    \
    extern "C" void fake_run_##name(const unsigned *grid, const unsigned *block, void **arguments) {        \
        gridDim.x = grid[0], gridDim.y = grid[1], gridDim.z = grid[2];                                      \
        blockDim.x = block[0], blockDim.y = block[1], blockDim.z = block[2];                                \
        for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)                                            \
            for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)                                        \
                for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x)                                    \
                    for (threadIdx.z = 0; threadIdx.z < block[2]; ++threadIdx.z)                            \
                        for (threadIdx.y = 0; threadIdx.y < block[1]; ++threadIdx.y)                        \
                            for (threadIdx.x = 0; threadIdx.x < block[0]; ++threadIdx.x)                    \
                                decltype(fake_call(&name))::call(&name, arguments);                         \
    }
