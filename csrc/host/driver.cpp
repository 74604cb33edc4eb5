// The few calls of CUDA's driver that `equikern/backends/cuda/driver.py` makes, on the host: a "cubin" is the path of a
// kernel's library built against shim.hpp. For tests.
#include <dlfcn.h>

#include <string>

namespace {

enum { SUCCESS = 0, INVALID_VALUE = 1, INVALID_CONTEXT = 201, NOT_FOUND = 500 };
thread_local void* current = nullptr;
int primary;

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int cuCtxGetCurrent(void** context) {
    *context = current;
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
    *context = &primary;
    return device == 0 ? SUCCESS : INVALID_VALUE;
}

int cuCtxSetCurrent(void* context) {
    current = context;
    return SUCCESS;
}

int cuModuleLoadData(void** module, const void* image) {
    if (!current) return INVALID_CONTEXT;
    *module = dlopen(static_cast<const char*>(image), RTLD_NOW | RTLD_LOCAL);
    return *module ? SUCCESS : INVALID_VALUE;
}

int cuModuleGetFunction(void** function, void* module, const char* name) {
    *function = dlsym(module, (std::string(name) + "_on_host").c_str());
    return *function ? SUCCESS : NOT_FOUND;
}

int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                   unsigned threads_z, unsigned shared, void* stream, void** arguments, void** extra) {
    if (!current) return INVALID_CONTEXT;
    if (!x || !y || z != 1 || threads > 1024 || threads_y != 1 || threads_z != 1 || shared || extra)
        return INVALID_VALUE;
    if (stream != reinterpret_cast<void*>(0x123456789abcull)) return INVALID_VALUE;  // no pointer is cut short
    reinterpret_cast<void (*)(unsigned, unsigned, const void*)>(function)(x, y, arguments[0]);
    return SUCCESS;
}

int cuGetErrorString(int status, const char** text) {
    *text = status == INVALID_VALUE ? "invalid argument"
            : status == NOT_FOUND   ? "named symbol not found"
                                    : "no context";
    return SUCCESS;
}
}
#pragma GCC visibility pop
