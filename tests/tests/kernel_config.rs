//! What kernel-config/ says about the kernel holds for the kernel that was built.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests may fail")]

use std::fs;

use image_builder::component::{Component, kconfig};
use image_builder::recipe::{Board, Target};
use msec_tests::built::{built, tree};

/// A demand of the hardening checkers.
#[derive(Debug, PartialEq, Eq)]
struct Demand {
    option: String,
    asked: String,
    /// What it is instead, and why.
    deviation: Option<(String, String)>,
}

/// Reads `kernel-config/self-protection`, whose head explains the form. An indented line
/// goes on with the one before.
fn demands(text: &str) -> Result<Vec<Demand>, String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match lines.last_mut().filter(|_| line.starts_with(' ')) {
            Some(last) => last.extend([" ", line.trim()]),
            None => lines.push(line.to_owned()),
        }
    }
    let mut demands: Vec<Demand> = Vec::new();
    for line in lines {
        let demand = demand(&line).ok_or_else(|| format!("no demand: {line}"))?;
        if demands.iter().any(|earlier| earlier.option == demand.option) {
            return Err(format!("twice: {}", demand.option));
        }
        demands.push(demand);
    }
    Ok(demands)
}

fn demand(line: &str) -> Option<Demand> {
    let (asked, deviation) = match line.split_once(", is ") {
        Some((asked, rest)) => {
            let (is, why) = rest.split_once(": ")?;
            (asked, Some((is.to_owned(), why.to_owned())))
        }
        None => (line, None),
    };
    let (option, value) = asked.split_once('=')?;
    let name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let sound = !option.is_empty() && option.chars().all(name) && !value.contains([' ', ':', ',']);
    sound.then(|| Demand { option: option.to_owned(), asked: value.to_owned(), deviation })
}

/// Where demands and configuration disagree, and where a deviation is none any more.
fn wrong(demands: &[Demand], config: &str) -> Vec<String> {
    let check = |demand: &Demand| {
        let option = &demand.option;
        let is = kconfig::value(config, option).unwrap_or("n");
        match &demand.deviation {
            None if is != demand.asked => Some(format!("{option} is {is}: say why")),
            Some(_) if is == demand.asked => Some(format!("{option} is {is}, as asked for")),
            Some((told, _)) if is != told => Some(format!("{option} is {is}, and not {told}")),
            _ => None,
        }
    };
    demands.iter().filter_map(check).collect()
}

#[test]
fn the_kernel_is_as_the_list_of_demands_and_deviations_says() {
    let text = fs::read_to_string(tree().join("kernel-config/self-protection")).unwrap();
    let demands = demands(&text).unwrap();
    for board in Board::ALL {
        let target = Target { board, ..Target::default() };
        let kernel = built().component_for(target, Component::Kernel);
        let config = fs::read_to_string(kernel.join("config")).unwrap();
        assert_eq!(wrong(&demands, &config), [""; 0], "{board}");
    }
}

/// The page allocator is shuffled only when the command line says so.
#[test]
fn the_command_line_asks_for_what_no_option_switches_on() {
    let line = built().recipe.kernel.command_line.as_str();
    assert!(line.split(' ').any(|word| word == "page_alloc.shuffle=1"), "{line}");
}

#[test]
fn a_demand_is_met_or_explained() {
    let list = "# a comment\n\nA=y\nB=n\nC=12, is 13: too\n    short\nD=y, is n: not here\n";
    let demands = demands(list).unwrap();
    assert_eq!(demands.len(), 4);
    assert_eq!(
        demands.get(2),
        Some(&Demand {
            option: "C".to_owned(),
            asked: "12".to_owned(),
            deviation: Some(("13".to_owned(), "too short".to_owned())),
        })
    );
    let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=13\n";
    assert_eq!(wrong(&demands, config), [""; 0]);
    let on = config.replace("# CONFIG_B is not set", "CONFIG_B=y\nCONFIG_D=y");
    assert_eq!(wrong(&demands, &on), ["B is y: say why", "D is y, as asked for"]);
    let other = config.replace("13", "14").replace("CONFIG_A=y\n", "");
    assert_eq!(wrong(&demands, &other), ["A is n: say why", "C is 14, and not 13"]);
}

#[test]
fn a_line_that_is_no_demand_is_named() {
    for line in ["A", "A=y, is n", "A=y, but n: why", "a=y", "CONFIG A=y", "=y", "A=y: why"] {
        assert_eq!(demands(line).unwrap_err(), format!("no demand: {line}"));
    }
    assert_eq!(demands("A=y\nB=y\nA=n\n").unwrap_err(), "twice: A");
}
