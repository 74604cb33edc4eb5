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

enum class State { running, barrier, exchange, done };

struct Fiber {
    ucontext_t context;
    State state;
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

void yield(State state) {
    const int me = current;
    fibers[me].state = state;
    swapcontext(&fibers[me].context, &scheduler);
}

void enter() {
    body(argument);
    fibers[current].state = State::done;
}

int count(State state, int first, int last) {
    int n = 0;
    for (int t = first; t < last; ++t) n += fibers[t].state == state;
    return n;
}

void wake(int first, int last) {
    for (int t = first; t < last; ++t) fibers[t].state = State::running;
}

/// Run a warp until all of its threads wait at a barrier or are done.
void run_warp(int first, int last) {
    for (;;) {
        for (int t = first; t < last; ++t)
            if (fibers[t].state == State::running) {
                current = t;
                thread = {unsigned(t), 0, 0};
                swapcontext(&scheduler, &fibers[t].context);
            }
        const int waiting = count(State::exchange, first, last);
        if (waiting == 0) return;
        if (waiting != last - first) stop("a lane named in an exchange is elsewhere");
        wake(first, last);
    }
}

void run_block(int threads) {
    for (int t = 0; t < threads; ++t) {
        Fiber& fiber = fibers[t];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = stacks.data() + t * STACK;
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, enter, 0);
        fiber.state = State::running;
    }
    for (;;) {
        for (int n = 0; n < threads; n += WARP) {
            const int first = backwards ? threads - WARP - n : n;
            run_warp(first, first + WARP);
        }
        const int done = count(State::done, 0, threads);
        if (done == threads) return;
        if (done) stop("a barrier that not every thread reaches");
        wake(0, threads);
    }
}

}  // namespace

thread_local dim3 thread, block;
bool backwards;

void launch(unsigned x, unsigned y, unsigned threads, void (*given)(const void*), const void* with) {
    fibers.resize(threads);
    stacks.resize(threads * STACK);
    body = given;
    argument = with;
    for (unsigned j = 0; j < y; ++j)
        for (unsigned i = 0; i < x; ++i) {
            block = {i, j, 0};
            run_block(threads);
        }
}

unsigned long long exchange(unsigned long long bits, int lane) {
    const int me = current;
    fibers[me].bits = bits;
    yield(State::exchange);
    const unsigned long long got = fibers[me / WARP * WARP + lane].bits;
    yield(State::exchange);
    return got;
}

}  // namespace eqk_host
