// State of a stand-in CUDA device: contexts, memory, streams that run at once, captured graphs, faults.
//
// It is no simulator and it measures nothing: its clock counts operations. It holds the callers to the
// driver's rules (a current context, ranges inside allocations, nothing forbidden during a capture).
#pragma once
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

using Address = unsigned long long;
using Work = std::function<void()>;

enum Result {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100,
    INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500,
    NOT_READY = 600, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901, CAPTURE_UNMATCHED = 903, CAPTURE_ISOLATION = 905,
};

struct Graph {
    std::vector<Work> nodes;
};
struct Stream {
    std::shared_ptr<Graph> capture;  // null while it is not capturing
    bool invalid = false;
    int mode = 0;  // CUstreamCaptureMode: 0 global, 1 thread local, 2 relaxed
    std::thread::id thread;  // that began the capture
};
struct Event {
    std::atomic<long> time{-1};  // in operations of the device
    Stream *captured = nullptr;
};
struct Module {
    std::string image;
};
struct Kernel {  // what a library of kernels exports for each (see fake_kernels.hpp)
    void (*run)(const unsigned *grid, const unsigned *block, void **arguments);
    const size_t *sizes;       // of the arguments, ended by 0
    const size_t *alignments;
};

struct Device {
    std::recursive_mutex lock;
    pid_t process = 0;  // 0 until cuInit
    int retained = 0;   // of the primary context
    int lost = 0;       // what every call answers from now on
    size_t limit = size_t(1) << 30;
    size_t used = 0;
    std::map<Address, size_t> memory;
    std::map<Address, size_t> pinned;
    std::set<void *> streams, events, modules, graphs, executables;
    std::map<std::string, Kernel> kernels;
    std::map<std::string, long> calls;
    struct Fault { long left; int code; };
    std::map<std::string, std::vector<Fault>> faults;
    std::string log;
    std::atomic<long> clock{0};
};

inline Device &device() {
    static Device *state = new Device;  // never destroyed: threads may still call at exit
    return *state;
}

inline std::vector<void *> &contexts() {  // the stack of current contexts of a thread
    thread_local std::vector<void *> stack;
    return stack;
}

inline void *primary() { return &device().retained; }

// FAKE_CUDA_FAIL="cuMemAlloc:3:2,cuStreamBeginCapture:1:900": call number 3 from now on answers 2, and so on
inline void plan_fault(const std::string &name, long nth, int code) {
    device().faults[name].push_back({nth, code});
}

inline void read_environment() {
    if (const char *text = getenv("FAKE_CUDA_MEMORY")) device().limit = strtoull(text, nullptr, 10);
    if (const char *text = getenv("FAKE_CUDA_FAIL")) {
        std::string list(text);
        for (size_t start = 0; start < list.size();) {
            size_t end = list.find(',', start);
            std::string item = list.substr(start, end == std::string::npos ? end : end - start);
            size_t first = item.find(':'), second = item.find(':', first + 1);
            plan_fault(item.substr(0, first), atol(item.c_str() + first + 1), atoi(item.c_str() + second + 1));
            start = end == std::string::npos ? list.size() : end + 1;
        }
    }
}

inline int setting(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

// What every driver function does first: count and log the call, then answer with a planned fault.
inline int enter(const char *name, bool needs_context) {
    Device &d = device();
    std::lock_guard<std::recursive_mutex> hold(d.lock);
    ++d.calls[name];
    d.log += name;
    d.log += '\n';
    for (auto &fault : d.faults[name])
        if (--fault.left == 0) {
            // as on a real device, these stay until the process ends
            if (fault.code == ILLEGAL_ADDRESS || fault.code == LAUNCH_FAILED) d.lost = fault.code;
            return fault.code;
        }
    if (d.process == 0 || d.process != getpid()) return NOT_INITIALIZED;  // also after a fork
    // contexts are still pushed and popped, and failures named, on a lost device
    bool of_host = strncmp(name, "cuCtx", 5) == 0 && strcmp(name, "cuCtxSynchronize") != 0;
    if (d.lost && !of_host) return d.lost;
    if (needs_context && (contexts().empty() || contexts().back() == nullptr)) return INVALID_CONTEXT;
    return SUCCESS;
}

// Work of a stream: done at once, or kept in the graph that the stream captures.
inline int submit(Stream *stream, Work work) {
    Device &d = device();
    {
        std::lock_guard<std::recursive_mutex> hold(d.lock);
        if (stream && !d.streams.count(stream)) return INVALID_HANDLE;
        if (stream && stream->invalid) return CAPTURE_INVALIDATED;
        if (stream && stream->capture) {
            stream->capture->nodes.push_back(std::move(work));
            return SUCCESS;
        }
    }
    ++d.clock;
    work();  // without the lock: a host function may call back
    return d.lost;
}

// Whether [address, address + bytes) lies inside one allocation.
inline bool is_inside(const std::map<Address, size_t> &allocations, Address address, size_t bytes) {
    std::lock_guard<std::recursive_mutex> hold(device().lock);
    auto next = allocations.upper_bound(address);
    if (next == allocations.begin()) return false;
    auto found = std::prev(next);
    return address + bytes <= found->first + found->second;
}
