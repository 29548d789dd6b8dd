//! Measures: `bench [FIGURE…]`, all of them without a name. Ends with 1 if a bound was missed.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use tests::bench::{FIGURES, Figure, Programs, Section, apart, load, machine, page, versions};
use tests::lab::say;

/// Figures of Ployz and its peers, measured in one run.
#[derive(Debug, clap::Parser)]
struct Args {
    /// Which; all of them by default.
    figures: Vec<String>,
    /// Where the page goes; only a run of all figures is written.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let result = if apart::inside() { measure(&args).await } else { outside().await };
    result.unwrap_or_else(|error| {
        eprintln!("bench: {error:#}");
        ExitCode::from(2)
    })
}

async fn outside() -> anyhow::Result<ExitCode> {
    let status = apart::run_again(std::env::args_os().skip(1).collect()).await?;
    let code = status.map_or(Some(130), |status| status.code());
    Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(2)))
}

async fn measure(args: &Args) -> anyhow::Result<ExitCode> {
    let figures = choose(&args.figures)?;
    ensure!(
        args.write.is_none() || figures.len() == FIGURES.len(),
        "--write wants all figures: they are of one run"
    );
    let programs = Programs::find()?;
    apart::arrange()?;
    let versions = versions(&programs).context("scripts/setup.sh bench installs the peers")?;
    let before = load();
    say(&format!("{}\n{}\nload average {before}\n", machine(), versions.join("\n")));
    let mut sections: Vec<Section> = Vec::new();
    for figure in figures {
        say(&format!("{}: about {} …\n", figure.name, figure.takes));
        let section = figure.run(&programs).await.context(figure.name)?;
        say(&section.render());
        sections.push(section);
    }
    let after = load();
    say(&format!("load average before {before}, after {after}"));
    let missed = sections.iter().flat_map(|section| &section.bounds).filter(|b| !b.holds()).count();
    if let Some(path) = &args.write {
        let page = page(&versions, (&before, &after), &sections);
        std::fs::write(path, page).with_context(|| path.display().to_string())?;
    }
    Ok(if missed == 0 {
        ExitCode::SUCCESS
    } else {
        say(&format!("{missed} bounds missed"));
        ExitCode::FAILURE
    })
}

fn choose(names: &[String]) -> anyhow::Result<Vec<&'static Figure>> {
    if names.is_empty() {
        return Ok(FIGURES.iter().collect());
    }
    let find = |name: &String| {
        let known = || FIGURES.iter().map(|figure| figure.name).collect::<Vec<_>>().join(", ");
        let found = FIGURES.iter().find(|figure| figure.name == name);
        found.with_context(|| format!("there is no figure {name}; there are {}", known()))
    };
    names.iter().map(find).collect()
}
