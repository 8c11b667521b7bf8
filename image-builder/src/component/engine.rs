//! Builds what the cache has not, two components at a time.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};

use super::job::Job;
use super::plan::{Context, Plan, Planned};
use super::{BuildError, Component};
use crate::progress::Progress;
use crate::recipe::Target;
use crate::sources::{fetch, store::Store};

/// How many components are built at a time. Most of a build uses all processors
/// by itself; a second one fills the gaps that configure scripts and linkers leave.
const LANES: usize = 2;

#[derive(Debug, Default)]
struct State {
    waiting: BTreeSet<Component>,
    done: BTreeSet<Component>,
    error: Option<BuildError>,
}

impl State {
    /// A component whose needs are all built.
    fn next(&mut self, target: &Target) -> Option<Component> {
        let ready = |component: &&Component| {
            component.needs(target).iter().all(|need| self.done.contains(need))
        };
        let next = self.waiting.iter().find(ready).copied()?;
        self.waiting.remove(&next);
        Some(next)
    }
}

/// Builds these components and all that they need, where the cache has not got
/// them, and returns where they are.
///
/// # Errors
/// The first failure. Everything that was complete before stays in the cache.
pub fn build(
    context: &Context,
    wanted: &[Component],
    progress: &Progress,
) -> Result<Plan, BuildError> {
    let plan = Plan::new(context, wanted)?;
    let (done, waiting): (BTreeSet<_>, BTreeSet<_>) =
        plan.components().map(|(component, _)| component).partition(|c| exists(&plan, *c));
    let mut sources: Vec<&str> = waiting.iter().flat_map(|c| c.sources(&context.target)).collect();
    sources.dedup();
    fetch::fetch(&context.lock, &sources, &Store::new(&context.cache), progress)?;

    let state = Mutex::new(State { waiting, done, error: None });
    let changed = Condvar::new();
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| lane(context, &plan, progress, &state, &changed));
        }
    });
    match state.into_inner().unwrap_or_else(PoisonError::into_inner).error {
        Some(error) => Err(error),
        None => Ok(plan),
    }
}

fn exists(plan: &Plan, component: Component) -> bool {
    plan.get(component).is_some_and(|planned| planned.entry.exists())
}

/// Takes one component after the other until none is left or one has failed.
fn lane(
    context: &Context,
    plan: &Plan,
    progress: &Progress,
    state: &Mutex<State>,
    changed: &Condvar,
) {
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let mut guard = lock();
    while guard.error.is_none() && !guard.waiting.is_empty() {
        let Some(component) = guard.next(&context.target) else {
            guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(guard);
        let result = match plan.get(component) {
            Some(planned) => build_one(context, plan, component, planned, progress),
            None => Ok(()),
        };
        guard = lock();
        match result {
            Ok(()) => {
                guard.done.insert(component);
            }
            Err(error) => {
                // What runs may finish: its work is not thrown away.
                progress.say(&format!("{component}: failed; nothing more is begun"));
                guard.error.get_or_insert(error);
            }
        }
        changed.notify_all();
    }
}

fn build_one(
    context: &Context,
    plan: &Plan,
    component: Component,
    planned: &Planned,
    progress: &Progress,
) -> Result<(), BuildError> {
    let task = progress.task(component.name());
    let claim = planned.entry.claim(|| task.step("waiting: another process builds it"))?;
    if planned.entry.exists() {
        task.finish();
        return Ok(());
    }
    let out = planned.entry.begin(&claim)?;
    let job = Job {
        component,
        context,
        plan,
        task: &task,
        out,
        work: planned.entry.work().to_owned(),
        log: planned.entry.log().to_owned(),
    };
    (component.spec().build)(&job)?;
    planned.entry.finish(claim, &planned.description.to_text())?;
    task.finish();
    Ok(())
}
