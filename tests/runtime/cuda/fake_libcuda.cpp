// A stand-in for libcuda.so.1 that runs on the CPU: device memory is host memory, streams run at once.
//
// It lets the real bindings, and all that posedge builds on them, run where no GPU is. What it shows is that
// the calls, their order, the copies and the kernels' arithmetic are right; it measures nothing.
//
// Environment: FAKE_CUDA_DEVICES (1), FAKE_CUDA_SM (86), FAKE_CUDA_MEMORY (bytes, 1 GiB), FAKE_CUDA_KERNELS
// (libraries, see fake_kernels.hpp), FAKE_CUDA_FAIL (see fake_device.hpp). The fake_* functions of
// fake_control.hpp are for tests, by ctypes.
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
}

#include "fake_work.hpp"

#include "fake_control.hpp"
