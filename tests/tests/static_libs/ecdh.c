/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The salt's key agreement of the static tpm2-tss, with ephemeral keys of our
 * choice: one line for each, "PRIVATE Q.x Q.y Z", in hexadecimal as it would go
 * into KDFe and over the bus.
 *
 * The other side's key is the curve's base point, so Z is the ephemeral key's own
 * x-coordinate, and small private keys are known by heart to have a short one.
 * Linked with --wrap=mbedtls_ecdh_gen_public.
 */
#include <mbedtls/ecdh.h>
#include <stdio.h>
#include <stdlib.h>
#include <tss2/tss2_tpm2_types.h>

TSS2_RC iesys_cryptmbed_get_ecdh_point(TPM2B_PUBLIC *key, size_t max_out_size,
                                       TPM2B_ECC_PARAMETER *Z, TPMS_ECC_POINT *Q,
                                       BYTE *out_buffer, size_t *out_size, void *userdata);

static int private_key;

int __wrap_mbedtls_ecdh_gen_public(mbedtls_ecp_group *group, mbedtls_mpi *d, mbedtls_ecp_point *Q,
                                   int (*f_rng)(void *, unsigned char *, size_t), void *p_rng)
{
    int error = mbedtls_mpi_lset(d, private_key);

    return error ? error : mbedtls_ecp_mul(group, Q, d, &group->G, f_rng, p_rng);
}

static void print(const TPM2B_ECC_PARAMETER *number)
{
    putchar(' ');
    for (size_t i = 0; i < number->size; i++)
        printf("%02x", number->buffer[i]);
}

int main(int argc, char **argv)
{
    TPM2B_PUBLIC key = {
        .publicArea = { .type = TPM2_ALG_ECC,
                        .parameters.eccDetail.curveID = TPM2_ECC_NIST_P256 },
    };
    TPMS_ECC_POINT *base = &key.publicArea.unique.ecc;
    mbedtls_ecp_group group;
    unsigned char point[65];
    size_t length;

    mbedtls_ecp_group_init(&group);
    if (mbedtls_ecp_group_load(&group, MBEDTLS_ECP_DP_SECP256R1) ||
        mbedtls_ecp_point_write_binary(&group, &group.G, MBEDTLS_ECP_PF_UNCOMPRESSED, &length,
                                       point, sizeof(point)))
        return 2;
    base->x.size = base->y.size = 32;
    for (int i = 0; i < 32; i++) {
        base->x.buffer[i] = point[1 + i];
        base->y.buffer[i] = point[33 + i];
    }
    for (int i = 1; i < argc; i++) {
        TPM2B_ECC_PARAMETER Z = { 0 };
        TPMS_ECC_POINT Q = { 0 };
        BYTE out[sizeof(TPMS_ECC_POINT)];

        private_key = atoi(argv[i]);
        if (iesys_cryptmbed_get_ecdh_point(&key, sizeof(out), &Z, &Q, out, &length, NULL))
            return 1;
        printf("%d", private_key);
        print(&Q.x);
        print(&Q.y);
        print(&Z);
        putchar('\n');
    }
    return 0;
}
