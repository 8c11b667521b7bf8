//! `image-builder components`.

use std::process::ExitCode;

use indicatif::HumanBytes;
use serde::Serialize;

use super::{Format, Global, setting};
use crate::component::Component;
use crate::component::plan::Plan;
use crate::keys::Role;

#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    about: &'static str,
    key: String,
    cached: bool,
    size: u64,
    directory: String,
    needs: Vec<&'static str>,
}

pub(super) fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let context = setting::context(global)?;
    // Without the certificate, there is nothing to say about it.
    let has_ima = context.signing_key.certificate_of(Role::Ima).is_file();
    let known = Component::ALL.into_iter().filter(|c| *c != Component::KernelKey || has_ima);
    let plan = Plan::new(&context, &known.collect::<Vec<_>>())?;
    let rows: Vec<Row> = plan
        .components()
        .map(|(component, planned)| Row {
            name: component.name(),
            about: component.about(),
            key: planned.key.to_string(),
            cached: planned.entry.exists(),
            size: planned.entry.size(),
            directory: planned.entry.dir().display().to_string(),
            needs: component.needs(&context.target).iter().map(|need| need.name()).collect(),
        })
        .collect();
    if global.format == Format::Json {
        setting::print_json(&serde_json::json!({
            "schema": "msec-boot/components/1",
            "components": rows,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for row in rows {
        let size = if row.cached { HumanBytes(row.size).to_string() } else { "not built".into() };
        let key = row.key.get(..16).unwrap_or_default();
        setting::print(&format!("{:<17} {key}  {size:>11}  {}\n", row.name, row.about))?;
    }
    Ok(ExitCode::SUCCESS)
}
