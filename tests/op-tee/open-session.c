/*
 * Asks OP-TEE for a session with the application UUID (a macro: the 16 bytes of RFC 4122)
 * and ends. It prints what OP-TEE returned and who said so (TEE Client API Specification
 * 1.0, 4.4.2 and 4.4.3), "0x00000000 from 4" for a session.
 *
 * No library: so small that a test can type it.
 */

#include <asm/unistd.h>
#include <linux/fcntl.h>
#include <linux/tee.h>

static long call(long number, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;

	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}

static _Noreturn void end(long code)
{
	for (;;)
		call(__NR_exit, code, 0, 0, 0);
}

void _start(void)
{
	struct tee_ioctl_open_session_arg arg = { .uuid = UUID, .clnt_login = TEE_IOCTL_LOGIN_PUBLIC };
	struct tee_ioctl_buf_data data = { .buf_ptr = (unsigned long)&arg, .buf_len = sizeof(arg) };
	char text[] = "0x........ from .\n";
	long tee = call(__NR_openat, AT_FDCWD, (long)"/dev/tee0", O_RDWR, 0);

	if (tee < 0)
		end(2);
	if (call(__NR_ioctl, tee, TEE_IOC_OPEN_SESSION, (long)&data, 0) < 0)
		end(3);
	for (int n = 0; n < 8; n++)
		text[9 - n] = "0123456789abcdef"[arg.ret >> 4 * n & 0xf];
	text[16] = '0' + (arg.ret_origin & 7);
	call(__NR_write, 1, (long)text, sizeof(text) - 1, 0);
	end(0);
}
