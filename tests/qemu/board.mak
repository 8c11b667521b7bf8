# The devices of the emulator: one board, its TPM, and what the tests of both use.
CONFIG_RASPI=y
CONFIG_TPM_TIS_SPI=y
CONFIG_TPM_TIS_I2C=y
CONFIG_GENERIC_LOADER=y
CONFIG_SSI_M25P80=y
CONFIG_TMP105=y
