//! What a person sees while work goes on: lines that move on a terminal, plain
//! lines elsewhere. All of it goes to standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a spinner moves.
const TICK: Duration = Duration::from_millis(120);

/// All lines of one run of the program.
#[derive(Debug, Clone)]
pub struct Progress {
    bars: MultiProgress,
    terminal: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// Progress on standard error.
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target =
            if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target), terminal }
    }

    /// No progress at all, for tests.
    pub fn hidden() -> Self {
        Self { bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()), terminal: true }
    }

    /// The bars behind it, for modules that draw their own.
    pub fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Prints a line above all others.
    pub fn say(&self, line: &str) {
        self.bars.suspend(|| eprintln!("{line}"));
    }

    /// A spinner with elapsed time and the current step.
    pub fn task(&self, name: &str) -> Task {
        self.add(
            name,
            ProgressBar::new_spinner(),
            "{spinner} {prefix:<12} {elapsed:>4}  {wide_msg}",
        )
    }

    /// A bar over `total` bytes.
    pub fn download(&self, name: &str, total: u64) -> Task {
        let template =
            "{spinner} {prefix:<12} {elapsed:>4}  [{bar:24}] {bytes}/{total_bytes}  {wide_msg}";
        self.add(name, ProgressBar::new(total), template)
    }

    fn add(&self, name: &str, bar: ProgressBar, template: &str) -> Task {
        let bar = self.bars.add(bar);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(TICK);
        Task { bar, name: name.to_owned(), terminal: self.terminal, start: Instant::now() }
    }
}

/// One line: a component that is built, a download.
#[derive(Debug)]
pub struct Task {
    bar: ProgressBar,
    name: String,
    terminal: bool,
    start: Instant,
}

impl Task {
    /// Says what is done now.
    pub fn step(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        if !self.terminal {
            eprintln!("{}: {what}", self.name);
        }
    }

    /// Shows a passing detail beside the step, on a terminal alone.
    pub fn detail(&self, step: &str, detail: &str) {
        self.bar.set_message(format!("{step}: {detail}"));
    }

    /// Moves a bar.
    pub fn position(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// Ends the line well, and says how long it took.
    pub fn finish(&self) {
        let seconds = self.start.elapsed().as_secs();
        let took = format!("done in {}:{:02}", seconds / 60, seconds % 60);
        self.bar.finish_with_message(took.clone());
        if !self.terminal {
            eprintln!("{}: {took}", self.name);
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.bar.is_finished() {
            self.bar.abandon();
        }
    }
}
