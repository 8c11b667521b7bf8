# The devices of the emulator: one family of boards, its TPM, and what the tests of both use.
CONFIG_RASPI=y
# What RASPI uses and does not select
CONFIG_ARM_GIC=y
CONFIG_OR_IRQ=y
CONFIG_UNIMP=y
# What is plugged into its USB
CONFIG_USB_NETWORK=y

CONFIG_TPM_EMULATOR=y
CONFIG_TPM_TIS_I2C=y
CONFIG_TPM_TIS_SPI=y
CONFIG_GENERIC_LOADER=y

# tests/qtest
CONFIG_SSI_M25P80=y
CONFIG_TMP105=y
