#!/bin/bash
# dracut: puts initramfs-unseal, its configuration and drivers into the initramfs.
config=/etc/initramfs-unseal.json

check() {
    # Wherever it is configured.
    [[ -e ${dracutsysrootdir-}$config ]]
}

depends() {
    echo dm rootfs-block
}

installkernel() {
    # The TPM; dm-crypt and its ciphers; the boot partition with manifest and signatures.
    hostonly='' instmods tpm_tis tpm_tis_spi tpm_tis_i2c tpm_tis_i2c_cr50 tpm_crb tpm_ftpm_tee \
        dm_mod dm_crypt algif_skcipher xts aes_arm64 aes_ce_blk aes_neon_bs aesni_intel \
        adiantum chacha_generic chacha_neon nhpoly1305 nhpoly1305_neon poly1305_generic \
        vfat nls_cp437 nls_iso8859_1 nls_ascii
}

install() {
    local root
    # What cannot be read at boot must not become an initramfs.
    root=$(initramfs-unseal unlock --check --config "$config") || exit 1
    inst_binary /usr/sbin/initramfs-unseal
    inst_simple "$config"
    inst_multiple -o reboot poweroff
    # The root, unless root= says otherwise; nobody else opens it; nobody gives out a
    # shell: until initramfs-unseal has run, that shell could unseal. The command line,
    # which is measured, has the last word.
    mkdir -p "${initdir:?}/etc/cmdline.d"
    echo "root=$root rd.luks=0 rd.shell=0 rd.emergency=poweroff" \
        >"$initdir/etc/cmdline.d/initramfs-unseal.conf"
    inst_hook initqueue/settled 10 "${moddir:?}/unlock.sh"
    dracut_need_initqueue
}
