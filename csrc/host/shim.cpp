// The fibers behind shim.hpp, on ucontext.
#include "shim.hpp"

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace eqk_host {
namespace {

constexpr int WARP = 32;
constexpr size_t STACK = 256 * 1024;

struct Fiber {
    ucontext_t context;
    bool done;
    unsigned long long bits;
};

std::vector<Fiber> fibers;
std::vector<char> stacks;
ucontext_t scheduler;
int current;
void (*body)(const void*);
const void* argument;

[[noreturn]] void stop(const char* what) {
    std::fprintf(stderr, "host shim: block (%u, %u): %s\n", block.x, block.y, what);
    std::abort();
}

void yield() { swapcontext(&fibers[current].context, &scheduler); }

void enter() {
    body(argument);
    fibers[current].done = true;
}

/// Run the threads of a warp, from `first` on, to their end.
void run_warp(int first) {
    for (int t = 0; t < WARP; ++t) {
        Fiber& fiber = fibers[t];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = stacks.data() + t * STACK;
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, enter, 0);
        fiber.done = false;
    }
    for (;;) {
        for (current = 0; current < WARP; ++current) {
            thread = {unsigned(first + current), 0, 0};
            swapcontext(&scheduler, &fibers[current].context);
        }
        int done = 0;
        for (const Fiber& fiber : fibers) done += fiber.done;
        if (done == WARP) return;
        if (done) stop("a lane named in an exchange is elsewhere");
    }
}

}  // namespace

thread_local dim3 thread, block;

void launch(unsigned x, unsigned y, unsigned threads, void (*given)(const void*), const void* with) {
    fibers.resize(WARP);
    stacks.resize(WARP * STACK);
    body = given;
    argument = with;
    for (unsigned j = 0; j < y; ++j)
        for (unsigned i = 0; i < x; ++i) {
            block = {i, j, 0};
            for (unsigned first = 0; first < threads; first += WARP) run_warp(int(first));
        }
}

unsigned long long exchange(unsigned long long bits, int lane) {
    fibers[current].bits = bits;
    yield();
    const unsigned long long got = fibers[lane].bits;
    yield();
    return got;
}

}  // namespace eqk_host
