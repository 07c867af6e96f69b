// The last part of the stand-in driver: names of errors, the table of functions, and what tests ask and tell it.
// Included by fake_libcuda.cpp.
#pragma once

extern "C" {
int cuGetErrorName(int code, const char **name) {
    static const std::map<int, const char *> names = {
        {0, "CUDA_SUCCESS"}, {1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"},
        {3, "CUDA_ERROR_NOT_INITIALIZED"}, {46, "CUDA_ERROR_DEVICE_UNAVAILABLE"}, {100, "CUDA_ERROR_NO_DEVICE"},
        {101, "CUDA_ERROR_INVALID_DEVICE"}, {200, "CUDA_ERROR_INVALID_IMAGE"},
        {201, "CUDA_ERROR_INVALID_CONTEXT"}, {209, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
        {400, "CUDA_ERROR_INVALID_HANDLE"}, {500, "CUDA_ERROR_NOT_FOUND"}, {600, "CUDA_ERROR_NOT_READY"},
        {700, "CUDA_ERROR_ILLEGAL_ADDRESS"}, {719, "CUDA_ERROR_LAUNCH_FAILED"},
        {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"}, {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
        {903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED"}, {905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION"}};
    auto found = names.find(code);
    return *name = found == names.end() ? nullptr : found->second, found == names.end() ? INVALID_VALUE : SUCCESS;
}
int cuGetErrorString(int code, const char **text) { return cuGetErrorName(code, text); }

// The functions of the driver by the name without its version suffix, as the bindings ask for them.
int cuGetProcAddress_v2(const char *name, void **address, int, unsigned long long, int *status) {
    static void *self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    *address = nullptr;
    if (strcmp(name, "cuGetProcAddress") == 0) *address = reinterpret_cast<void *>(cuGetProcAddress_v2);
    for (const char *suffix : {"_v2", "WithFlags", ""})
        if (!*address && strncmp(name, "fake_", 5)) *address = dlsym(self, (std::string(name) + suffix).c_str());
    if (status) *status = *address ? 0 : 1;
    return *address ? SUCCESS : NOT_FOUND;
}
int cuGetProcAddress(const char *name, void **address, int version, unsigned long long flags) {
    return cuGetProcAddress_v2(name, address, version, flags, nullptr);
}

// NVRTC looks for a table that only NVIDIA's driver has, and does without.
int cuGetExportTable(const void **table, const void *) { return *table = nullptr, NOT_FOUND; }

// --- for tests
long fake_calls(const char *name) { LOCK; return device().calls[name]; }
void fake_fail(const char *name, long nth, int code) { LOCK; plan_fault(name, nth, code); }
// takes back faults, a lost device and limits; what is allocated stays
void fake_reset() { LOCK; device().faults.clear(), device().lost = 0, device().limit = size_t(1) << 30; }
// as if the process began anew: what a lost device left behind cannot be freed by those who made it
void fake_forget_everything() {
    LOCK;
    Device &d = device();
    d.memory.clear(), d.pinned.clear(), d.streams.clear(), d.events.clear(), d.modules.clear();
    d.graphs.clear(), d.executables.clear(), d.used = 0, d.retained = 0;
}
void fake_limit(size_t bytes) { LOCK; device().limit = bytes; }
size_t fake_used() { LOCK; return device().used; }
const char *fake_log() { LOCK; return device().log.c_str(); }
void fake_clear_log() { LOCK; device().log.clear(); }
// what lives now: device and pinned allocations, streams, events, modules, graphs, executables, retained contexts
void fake_live(long *counts) {
    LOCK;
    Device &d = device();
    const size_t live[] = {d.memory.size(), d.pinned.size(), d.streams.size(), d.events.size(),
                           d.modules.size(), d.graphs.size(), d.executables.size(), size_t(d.retained)};
    for (int i = 0; i < 8; ++i) counts[i] = long(live[i]);
}
}
