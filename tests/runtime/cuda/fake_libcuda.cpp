// A stand-in for libcuda.so.1 that runs on the CPU: device memory is host memory, streams run at once.
//
// It lets the real bindings, and all that posedge builds on them, run where no GPU is. What it shows is that
// the calls, their order, the copies and the kernels' arithmetic are right; it measures nothing.
//
// Environment: FAKE_CUDA_DEVICES (1), FAKE_CUDA_SM (86), FAKE_CUDA_MEMORY (bytes, 1 GiB), FAKE_CUDA_KERNELS
// (libraries, see fake_kernels.hpp), FAKE_CUDA_FAIL (see fake_device.hpp). The fake_* functions at the end
// are for tests, by ctypes.
#include "fake_device.hpp"
#include <cstdio>
#include <dlfcn.h>

#define ENTER(name) if (int fault = enter(#name, true)) return fault
#define ENTER_ANYWHERE(name) if (int fault = enter(#name, false)) return fault
#define LOCK std::lock_guard<std::recursive_mutex> hold(device().lock)
// what waits or allocates breaks the captures that go on, of this thread or of any, as their mode says
#define NOT_IN_CAPTURE if (breaks_capture()) return CAPTURE_UNSUPPORTED

static bool breaks_capture(Stream *waited_for = nullptr) {
    LOCK;
    bool breaks = false;
    for (void *handle : device().streams) {
        Stream *stream = static_cast<Stream *>(handle);
        bool concerned = stream->mode == 0 || (stream->mode == 1 && stream->thread == std::this_thread::get_id());
        if (stream->capture && (concerned || stream == waited_for)) stream->invalid = breaks = true;
    }
    return breaks;
}

template <typename T> static int forget(std::set<void *> &live, void *handle) {
    LOCK;
    if (!live.erase(handle)) return INVALID_HANDLE;
    delete static_cast<T *>(handle);
    return SUCCESS;
}

template <typename T> static T *remember(std::set<void *> &live, T *made) {
    LOCK;
    live.insert(made);
    return made;
}

static bool on_device(Address address, size_t bytes) { return is_inside(device().memory, address, bytes); }

static int copy(Stream *stream, void *to, const void *from, size_t bytes) {
    return submit(stream, [=] { memmove(to, from, bytes); });
}

extern "C" {
int cuInit(unsigned) {
    Device &d = device();
    LOCK;
    if (d.process == 0) {
        read_environment();
        d.process = getpid();
    }
    if (int fault = enter("cuInit", false)) return fault;
    return setting("FAKE_CUDA_DEVICES", 1) > 0 ? SUCCESS : NO_DEVICE;
}
int cuDriverGetVersion(int *version) { return *version = setting("FAKE_CUDA_VERSION", 13000), SUCCESS; }
int cuDeviceGetCount(int *count) {
    ENTER_ANYWHERE(cuDeviceGetCount);
    return *count = setting("FAKE_CUDA_DEVICES", 1), SUCCESS;
}
int cuDeviceGet(int *handle, int ordinal) {
    ENTER_ANYWHERE(cuDeviceGet);
    if (ordinal < 0 || ordinal >= setting("FAKE_CUDA_DEVICES", 1)) return INVALID_DEVICE;
    return *handle = ordinal, SUCCESS;
}
int cuDeviceGetName(char *name, int length, int) {
    ENTER_ANYWHERE(cuDeviceGetName);
    return snprintf(name, length, "stand-in device"), SUCCESS;
}
int cuDeviceTotalMem_v2(size_t *bytes, int) {
    ENTER_ANYWHERE(cuDeviceTotalMem);
    return *bytes = device().limit, SUCCESS;
}
int cuDeviceGetAttribute(int *value, int attribute, int) {
    ENTER_ANYWHERE(cuDeviceGetAttribute);
    int sm = setting("FAKE_CUDA_SM", 86);
    *value = attribute == 75 ? sm / 10 : attribute == 76 ? sm % 10 : attribute == 1 ? 1024 : 0;
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **context, int) {
    ENTER_ANYWHERE(cuDevicePrimaryCtxRetain);
    LOCK;
    ++device().retained;
    return *context = primary(), SUCCESS;
}
int cuDevicePrimaryCtxRelease_v2(int) {
    ENTER_ANYWHERE(cuDevicePrimaryCtxRelease);
    LOCK;
    if (device().retained == 0) return INVALID_CONTEXT;
    return --device().retained, SUCCESS;
}
int cuCtxPushCurrent_v2(void *context) {
    ENTER_ANYWHERE(cuCtxPushCurrent);
    if (context == primary() && device().retained == 0) return INVALID_CONTEXT;
    return contexts().push_back(context), SUCCESS;
}
int cuCtxPopCurrent_v2(void **context) {
    ENTER_ANYWHERE(cuCtxPopCurrent);
    if (contexts().empty()) return INVALID_CONTEXT;
    if (context) *context = contexts().back();
    return contexts().pop_back(), SUCCESS;
}
int cuCtxGetCurrent(void **context) {
    ENTER_ANYWHERE(cuCtxGetCurrent);
    return *context = contexts().empty() ? nullptr : contexts().back(), SUCCESS;
}
int cuCtxSetCurrent(void *context) {
    ENTER_ANYWHERE(cuCtxSetCurrent);
    if (contexts().empty()) contexts().push_back(context);
    return contexts().back() = context, SUCCESS;
}
int cuCtxGetDevice(int *handle) {
    ENTER(cuCtxGetDevice);
    return *handle = 0, SUCCESS;
}
int cuCtxSynchronize() {
    ENTER(cuCtxSynchronize);
    NOT_IN_CAPTURE;
    return SUCCESS;
}

int cuStreamCreate(Stream **stream, unsigned) {
    ENTER(cuStreamCreate);
    return *stream = remember(device().streams, new Stream), SUCCESS;
}
int cuStreamDestroy_v2(Stream *stream) {
    ENTER(cuStreamDestroy);
    return forget<Stream>(device().streams, stream);
}
int cuStreamSynchronize(Stream *stream) {
    ENTER(cuStreamSynchronize);
    if (stream && !device().streams.count(stream)) return INVALID_HANDLE;
    return breaks_capture(stream) ? CAPTURE_UNSUPPORTED : SUCCESS;
}
int cuStreamQuery(Stream *stream) {
    ENTER(cuStreamQuery);
    return breaks_capture(stream) ? CAPTURE_UNSUPPORTED : SUCCESS;
}
int cuStreamWaitEvent(Stream *stream, Event *event, unsigned) {
    ENTER(cuStreamWaitEvent);
    LOCK;
    if (!device().events.count(event)) return INVALID_HANDLE;
    // an event of a capture may be awaited inside that capture only
    if (event->captured && (!stream->capture || event->captured != stream)) return CAPTURE_ISOLATION;
    return SUCCESS;
}
int cuEventCreate(Event **event, unsigned) {
    ENTER(cuEventCreate);
    return *event = remember(device().events, new Event), SUCCESS;
}
int cuEventDestroy_v2(Event *event) {
    ENTER(cuEventDestroy);
    return forget<Event>(device().events, event);
}
int cuEventRecord(Event *event, Stream *stream) {
    ENTER(cuEventRecord);
    if (!device().events.count(event)) return INVALID_HANDLE;
    event->captured = stream && stream->capture ? stream : nullptr;
    return submit(stream, [=] { event->time = device().clock.load(); });
}
int cuEventQuery(Event *event) {
    ENTER(cuEventQuery);
    return event->captured ? CAPTURE_UNSUPPORTED : SUCCESS;
}
int cuEventSynchronize(Event *event) {
    ENTER(cuEventSynchronize);
    NOT_IN_CAPTURE;
    return event->captured ? CAPTURE_UNSUPPORTED : SUCCESS;
}
int cuEventElapsedTime_v2(float *milliseconds, Event *start, Event *end) {
    ENTER(cuEventElapsedTime);
    if (start->time < 0 || end->time < 0) return INVALID_HANDLE;  // never recorded
    return *milliseconds = float(end->time - start->time), SUCCESS;
}
int cuEventElapsedTime(float *milliseconds, Event *start, Event *end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}

int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    ENTER(cuMemGetInfo);
    LOCK;
    return *free_bytes = device().limit - device().used, *total = device().limit, SUCCESS;
}
int cuMemAlloc_v2(Address *address, size_t bytes) {
    ENTER(cuMemAlloc);
    NOT_IN_CAPTURE;
    LOCK;
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > device().limit - device().used) return OUT_OF_MEMORY;
    void *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset(memory, 0xA5, bytes);  // fresh memory holds anything
    *address = Address(memory);
    device().memory[*address] = bytes;
    return device().used += bytes, SUCCESS;
}
int cuMemFree_v2(Address address) {
    ENTER(cuMemFree);
    NOT_IN_CAPTURE;
    LOCK;
    auto found = device().memory.find(address);
    if (found == device().memory.end()) return INVALID_VALUE;
    device().used -= found->second;
    device().memory.erase(found);
    return free(reinterpret_cast<void *>(address)), SUCCESS;
}
int cuMemHostAlloc(void **memory, size_t bytes, unsigned) {
    ENTER(cuMemHostAlloc);
    NOT_IN_CAPTURE;
    LOCK;
    *memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    return device().pinned[Address(*memory)] = bytes, SUCCESS;
}
int cuMemAllocHost_v2(void **memory, size_t bytes) { return cuMemHostAlloc(memory, bytes, 0); }
int cuMemFreeHost(void *memory) {
    ENTER(cuMemFreeHost);
    NOT_IN_CAPTURE;
    LOCK;
    if (!device().pinned.erase(Address(memory))) return INVALID_VALUE;
    return free(memory), SUCCESS;
}
int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, Stream *stream) {
    ENTER(cuMemcpyHtoDAsync);
    return on_device(to, bytes) ? copy(stream, (void *)to, from, bytes) : INVALID_VALUE;
}
int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, Stream *stream) {
    ENTER(cuMemcpyDtoHAsync);
    return on_device(from, bytes) ? copy(stream, to, (void *)from, bytes) : INVALID_VALUE;
}
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Stream *stream) {
    ENTER(cuMemcpyDtoDAsync);
    bool inside = on_device(from, bytes) && on_device(to, bytes);
    return inside ? copy(stream, (void *)to, (void *)from, bytes) : INVALID_VALUE;
}
int cuMemsetD8Async(Address to, unsigned char value, size_t bytes, Stream *stream) {
    ENTER(cuMemsetD8Async);
    if (!on_device(to, bytes)) return INVALID_VALUE;
    return submit(stream, [=] { memset((void *)to, value, bytes); });
}

int cuModuleLoadData(Module **module, const void *image) {
    ENTER(cuModuleLoadData);
    NOT_IN_CAPTURE;
    if (*static_cast<const char *>(image) == 0) return INVALID_IMAGE;
    return *module = remember(device().modules, new Module), SUCCESS;
}
int cuModuleLoadDataEx(Module **module, const void *image, unsigned, void *, void **) {
    return cuModuleLoadData(module, image);
}
int cuModuleUnload(Module *module) {
    ENTER(cuModuleUnload);
    return forget<Module>(device().modules, module);
}
int cuModuleGetFunction(Kernel **kernel, Module *module, const char *name) {
    ENTER(cuModuleGetFunction);
    LOCK;
    if (!device().modules.count(module)) return INVALID_HANDLE;
    auto found = device().kernels.find(name);
    if (found != device().kernels.end()) return *kernel = &found->second, SUCCESS;
    std::string paths = getenv("FAKE_CUDA_KERNELS") ? getenv("FAKE_CUDA_KERNELS") : "";
    for (size_t start = 0, end; start < paths.size(); start = end + 1) {
        end = std::min(paths.find(':', start), paths.size());
        void *library = dlopen(paths.substr(start, end - start).c_str(), RTLD_NOW);
        if (!library) return INVALID_IMAGE;
        auto symbol = [&](const char *prefix) { return dlsym(library, (prefix + std::string(name)).c_str()); };
        if (!symbol("fake_run_")) continue;
        using Sizes = const size_t *();
        device().kernels[name] = {
            reinterpret_cast<void (*)(const unsigned *, const unsigned *, void **)>(symbol("fake_run_")),
            reinterpret_cast<Sizes *>(symbol("fake_sizes_"))(),
            reinterpret_cast<Sizes *>(symbol("fake_alignments_"))()};
        return *kernel = &device().kernels[name], SUCCESS;
    }
    return NOT_FOUND;
}
int cuLaunchKernel(Kernel *kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned, Stream *stream, void **parameters, void **extra) {
    ENTER(cuLaunchKernel);
    if (!gx || !gy || !gz || !bx || !by || !bz || bx * by * bz > 1024) return INVALID_VALUE;
    // the arguments are copied now: the caller's memory may go once the call returns
    std::vector<std::vector<char>> copies;
    const char *packed = extra ? static_cast<const char *>(extra[1]) : nullptr;  // CU_LAUNCH_PARAM_BUFFER_POINTER
    size_t offset = 0;
    for (int i = 0; kernel->sizes[i]; ++i) {
        offset = (offset + kernel->alignments[i] - 1) / kernel->alignments[i] * kernel->alignments[i];
        const char *from = packed ? packed + offset : static_cast<const char *>(parameters[i]);
        copies.emplace_back(from, from + kernel->sizes[i]);
        offset += kernel->sizes[i];
    }
    if (packed && *static_cast<size_t *>(extra[3]) != offset) return INVALID_VALUE;
    return submit(stream, [=]() mutable {
        std::vector<void *> arguments;
        for (auto &argument : copies) arguments.push_back(argument.data());
        const unsigned grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
        kernel->run(grid, block, arguments.data());
    });
}
int cuLaunchHostFunc(Stream *stream, void (*function)(void *), void *data) {
    ENTER(cuLaunchHostFunc);
    return submit(stream, [=] { function(data); });
}

int cuStreamBeginCapture_v2(Stream *stream, int mode) {
    ENTER(cuStreamBeginCapture);
    LOCK;
    if (!stream || stream->capture) return CAPTURE_UNSUPPORTED;
    stream->capture = std::make_shared<Graph>();
    stream->mode = mode;
    return stream->thread = std::this_thread::get_id(), SUCCESS;
}
int cuStreamEndCapture(Stream *stream, Graph **graph) {
    ENTER(cuStreamEndCapture);
    LOCK;
    if (!stream->capture) return CAPTURE_UNMATCHED;
    bool invalid = stream->invalid;
    *graph = invalid ? nullptr : remember(device().graphs, new Graph(*stream->capture));
    stream->capture = nullptr;
    stream->invalid = false;
    return invalid ? CAPTURE_INVALIDATED : SUCCESS;
}
int cuStreamIsCapturing(Stream *stream, int *status) {
    ENTER(cuStreamIsCapturing);
    return *status = !stream || !stream->capture ? 0 : stream->invalid ? 2 : 1, SUCCESS;
}
int cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long) {
    ENTER(cuGraphInstantiate);
    if (!device().graphs.count(graph)) return INVALID_VALUE;
    return *executable = remember(device().executables, new Graph(*graph)), SUCCESS;
}
int cuGraphLaunch(Graph *executable, Stream *stream) {
    ENTER(cuGraphLaunch);
    if (!device().executables.count(executable)) return INVALID_VALUE;
    return submit(stream, [=] { for (auto &node : executable->nodes) node(); });
}
int cuGraphDestroy(Graph *graph) {
    ENTER(cuGraphDestroy);
    return forget<Graph>(device().graphs, graph);
}
int cuGraphExecDestroy(Graph *executable) {
    ENTER(cuGraphExecDestroy);
    return forget<Graph>(device().executables, executable);
}

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
