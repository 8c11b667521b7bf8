/* attributes verity FILE            enables fs-verity (SHA-256, blocks of 4096 bytes, no salt)
 * attributes set FILE NAME HEX      sets an extended attribute
 *
 * For images, whose busybox does neither. Exits with the error's number.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fsverity.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>
#include <unistd.h>

static int verity(const char *path)
{
    struct fsverity_enable_arg arg = {
        .version = 1, .hash_algorithm = FS_VERITY_HASH_ALG_SHA256, .block_size = 4096
    };
    int file = open(path, O_RDONLY);

    return file < 0 ? -1 : ioctl(file, FS_IOC_ENABLE_VERITY, &arg);
}

static int set(const char *path, const char *name, const char *hex)
{
    unsigned char value[4096];
    size_t size = strlen(hex) / 2;

    if (size > sizeof(value)) {
        errno = E2BIG;
        return -1;
    }
    for (size_t i = 0; i < size; i++)
        if (sscanf(hex + 2 * i, "%2hhx", &value[i]) != 1) {
            errno = EINVAL;
            return -1;
        }
    return setxattr(path, name, value, size, 0);
}

int main(int argc, char **argv)
{
    int done = -1;

    errno = EINVAL;
    if (argc == 3 && !strcmp(argv[1], "verity"))
        done = verity(argv[2]);
    if (argc == 5 && !strcmp(argv[1], "set"))
        done = set(argv[2], argv[3], argv[4]);
    if (done < 0) {
        int why = errno;

        perror(argv[0]);
        return why;
    }
    return 0;
}
