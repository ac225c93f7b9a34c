//! `snap man`: one page, with every command's own options, for no other page is installed.

use std::io;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::cli::args::Arguments;

/// Returns the manual page, as roff(7).
///
/// # Errors
/// As writing into memory.
pub fn page() -> io::Result<String> {
    let all = Arguments::command();
    let mut text = Vec::new();
    let whole = Man::new(all.clone());
    whole.render_title(&mut text)?;
    whole.render_name_section(&mut text)?;
    whole.render_synopsis_section(&mut text)?;
    whole.render_description_section(&mut text)?;
    whole.render_options_section(&mut text)?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    for command in all.get_subcommands().filter(|command| command.get_name() != "help") {
        section(command, "snap", &mut text)?;
    }
    Ok(text)
}

/// Writes a command, and those below it.
fn section(command: &Command, parent: &str, text: &mut String) -> io::Result<()> {
    let name = format!("{parent} {}", command.get_name());
    let mut part = Vec::new();
    let page = Man::new(command.clone().bin_name(&name));
    page.render_synopsis_section(&mut part)?;
    page.render_description_section(&mut part)?;
    page.render_options_section(&mut part)?;
    text.push_str(&format!(".SH \"{}\"\n", name.to_uppercase()));
    let part = String::from_utf8_lossy(&part);
    // Each of these pages begins with definitions of its own.
    for line in part.lines().filter(|line| !line.starts_with(".ie ") && !line.starts_with(".el ")) {
        text.push_str(&line.replacen(".SH ", ".SS ", 1));
        text.push('\n');
    }
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        section(below, &name, text)?;
    }
    Ok(())
}
