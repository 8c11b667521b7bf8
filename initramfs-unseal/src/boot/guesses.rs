//! The PIN: chosen, asked for, its wrong guesses limited and forgiven.

use super::Boot;
use crate::console::Answer;
use crate::flow::{self, Why};
use crate::pin::Pin;
use crate::recovery::RecoveryKey;
use crate::token::Token;
use crate::tpm::{DEVICE, TpmError, lockout};
use anyhow::{Result, anyhow, bail};
use std::path::Path;
use std::time::Duration;

/// What was typed where a PIN was asked for.
pub(super) enum Typed {
    Pin(Pin),
    RecoveryKey(RecoveryKey),
}

/// Why the TPM was not asked.
pub(super) const BY_CHOICE: &str = "the recovery key was entered in place of the PIN";

impl Boot {
    /// Sets how many wrong PINs the TPM lets through. Safe to repeat until the lockout
    /// hierarchy has its password, which comes last.
    pub(super) fn limit_guesses(&mut self) -> Result<()> {
        let Some(mut tpm) = self.tpm.take() else { bail!(Why::NoTpmToProvision) };
        if tpm.lockout_has_password()? {
            bail!(TpmError::WrongPassword);
        }
        let (tpm, done) = lockout::aside(tpm, Path::new(DEVICE), lockout::set_parameters);
        self.tpm = tpm;
        Ok(done?)
    }

    /// Forgives the wrong PINs of a root that the recovery key has opened.
    pub(super) fn forgive_guesses(&mut self, token: &Token, volume_key: &[u8]) -> Result<()> {
        let Some(mut tpm) = self.tpm.take() else { return Ok(()) };
        let (srk, name) = (self.config.srk, &token.srk_name);
        if let Err(why) = tpm.open_lockout(srk, name, volume_key) {
            self.tpm = Some(tpm);
            return Err(why.into());
        }
        let (tpm, done) = lockout::aside(tpm, Path::new(DEVICE), lockout::forgive);
        self.tpm = tpm;
        let closed = self.tpm.as_mut().map(|tpm| tpm.close_lockout(srk, name, volume_key));
        done?;
        Ok(closed.transpose().map(drop)?)
    }

    /// The PIN of a root that is being provisioned: chosen before it is sealed, asked
    /// for again where that was cut.
    pub(super) fn choose_pin(&mut self, step: flow::Step) -> Result<Pin> {
        let chosen = matches!(step, flow::Step::Encrypt | flow::Step::Finish);
        let patience = Duration::from_secs(self.config.prompt_seconds.into());
        loop {
            let mut ask = |question: &str| match self.consoles.ask(question, patience) {
                Answer::Line(line) => Ok(line),
                Answer::TimedOut => Err(anyhow!("nobody entered a PIN")),
                Answer::NoConsole => Err(anyhow!("there is no console to enter a PIN on")),
            };
            let first = ask(if chosen { "enter the PIN that was chosen" } else { "choose a PIN" })?;
            let same = chosen || *ask("enter it again")? == *first;
            match Pin::parse(&first) {
                Ok(pin) if same => return Ok(pin),
                Ok(_) => self.consoles.say("the two were not the same"),
                Err(why) => self.consoles.say(&format!("this is no PIN: {why}")),
            }
        }
    }

    /// Gives the lockout hierarchy its password again where a cut came while guesses were
    /// being forgiven: until then anyone with the board could forgive them.
    pub(super) fn keep_lockout(&mut self, token: &Token, volume_key: &[u8]) {
        let Some(tpm) = self.tpm.as_mut().filter(|_| token.pin) else { return };
        if let Err(why) = tpm.close_lockout(self.config.srk, &token.srk_name, volume_key) {
            self.consoles.say(&format!("the TPM's lockout hierarchy has no password: {why}"));
        }
    }

    pub(super) fn ask_pin(&mut self) -> Result<Typed> {
        let patience = Duration::from_secs(self.config.prompt_seconds.into());
        let question = format!("enter the PIN for {}", self.config.root().display());
        loop {
            let typed = match self.consoles.ask(&question, patience) {
                Answer::Line(line) => line,
                Answer::TimedOut => bail!("nobody entered the PIN"),
                Answer::NoConsole => bail!("there is no console to enter the PIN on"),
            };
            if let Some(key) = RecoveryKey::parse(&typed) {
                return Ok(Typed::RecoveryKey(key));
            }
            match Pin::parse(&typed) {
                Ok(pin) => return Ok(Typed::Pin(pin)),
                // It costs no try: the TPM has not seen it.
                Err(why) => self.consoles.say(&format!("this is no PIN: {why}")),
            }
        }
    }
}
