/* Loaded before user-mode Linux: lets it run on processors with more registers than it knows.
 *
 * User-mode Linux 6.1 keeps 2696 bytes of a process's extended registers, as much as AVX-512 needs. The
 * machine's kernel takes a process's registers back only whole (PTRACE_SETREGSET with NT_X86_XSTATE), and
 * with AMX they are 11008 bytes. This ptrace() completes what is given back with what the process has. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef long (*ptrace_function)(int, pid_t, void *, void *);

long ptrace(enum __ptrace_request request, ...)
{
    static ptrace_function original;
    static _Alignas(64) char whole[64 * 1024];
    va_list arguments;

    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    if (!original)
        original = (ptrace_function)dlsym(RTLD_NEXT, "ptrace");
    if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE) {
        struct iovec *given = data, complete = {whole, sizeof whole};
        long result = original(PTRACE_GETREGSET, pid, address, &complete);

        if (result == 0 && complete.iov_len > given->iov_len) {
            memcpy(whole, given->iov_base, given->iov_len);
            return original(request, pid, address, &complete);
        }
    }
    return original(request, pid, address, data);
}
