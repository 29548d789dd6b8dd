use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("ployzctl").chain(line.split_whitespace()))
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn bare_deploy_takes_the_manifest_of_this_directory() {
    let Command::Deploy { manifest, command: None } = parse("deploy").unwrap().command else {
        panic!("no deploy");
    };
    assert_eq!(manifest.file, PathBuf::from("ployz.toml"));
    let Command::Deploy { manifest, command: None } = parse("deploy -f -").unwrap().command else {
        panic!("no deploy");
    };
    assert_eq!(manifest.file, PathBuf::from("-"));
}

#[test]
fn a_file_before_a_deploy_subcommand_is_a_mistake_and_after_it_is_not() {
    assert!(parse("deploy -f a.toml preview").is_err());
    assert!(matches!(
        parse("deploy preview -f a.toml").unwrap().command,
        Command::Deploy { command: Some(DeployCommand::Preview { .. }), .. }
    ));
}

#[test]
fn global_options_may_stand_behind_the_command() {
    let cli = parse("namespace rm blog --yes --json -q --socket /x/s").unwrap();
    assert!(cli.global.yes && cli.global.json && cli.global.quiet);
    assert_eq!(cli.global.socket, Some(PathBuf::from("/x/s")));
}

#[test]
fn services_and_slots_are_read() {
    let target: InstanceRef = "blog/web/2".parse().unwrap();
    assert_eq!((target.to_string(), target.slot), ("blog/web/2".to_owned(), Some(2)));
    let target: InstanceRef = "blog/web".parse().unwrap();
    assert_eq!((target.to_string(), target.slot), ("blog/web".to_owned(), None));
    let target: ScaleTarget = "blog/web=3".parse().unwrap();
    assert_eq!((target.service.to_string(), target.replicas), ("blog/web".to_owned(), 3));
}

#[test]
fn what_names_no_service_is_refused_with_exit_code_2() {
    for bad in [
        "restart web",
        "restart Blog/web",
        "restart blog/web/0",
        "logs blog/web/x",
        "logs blog/web/1/2",
        "logs blog",
        "scale blog/web",
        "scale blog/web=-1",
        "scale blog/web=many",
        "scale",
        "exec blog/web",
        "exec blog/web ls",
        "op show 12",
        "rollback blog --render --preview",
        "nonsense",
    ] {
        let error = parse(bad).expect_err(bad);
        assert_eq!(error.exit_code(), 2, "{bad}");
    }
}

#[test]
fn exec_takes_the_rest_of_the_line_as_it_is() {
    let Command::Exec { command, .. } = parse("exec blog/web -- ls --json -l").unwrap().command
    else {
        panic!("no exec");
    };
    assert_eq!(command, ["ls", "--json", "-l"]);
}

#[test]
fn bare_dev_is_dev_up() {
    assert!(matches!(parse("dev").unwrap().command, Command::Dev { command: None, .. }));
    let bare = parse("dev --data-dir /x --runtime process --nats-port 4333").unwrap().command;
    let Command::Dev { command: None, found } = bare else { panic!("no bare dev") };
    assert_eq!(found.dir.data_dir.as_deref(), Some(Path::new("/x")));
    assert_eq!(found.flags(), ["--runtime", "--nats-port"]);
    let named = parse("dev up --data-dir /y").unwrap().command;
    let Command::Dev { command: Some(DevCommand::Up { found }), .. } = named else {
        panic!("no dev up")
    };
    assert_eq!(found.dir.data_dir.as_deref(), Some(Path::new("/y")));
}

#[test]
fn every_command_and_option_is_in_the_docs() {
    fn missing(docs: &str, command: &clap::Command, path: &str, out: &mut Vec<String>) {
        let leaf = command.get_subcommands().next().is_none();
        if leaf && ![" ", "`", ","].iter().any(|end| docs.contains(&format!("`{path}{end}"))) {
            out.push(path.to_owned());
        }
        let options = command.get_arguments().filter_map(|arg| arg.get_long());
        let options =
            options.filter(|long| !matches!(*long, "help" | "version" | "file" | "output"));
        out.extend(options.map(|long| format!("--{long}")).filter(|long| !docs.contains(long)));
        for sub in command.get_subcommands() {
            let path = format!("{path} {}", sub.get_name());
            missing(docs, sub, path.trim_start(), out);
        }
    }
    let docs = include_str!("../../docs/commands.md");
    let mut out = Vec::new();
    missing(docs, &Cli::command(), "", &mut out);
    // Those that have a letter only in the docs.
    out.retain(|name| !matches!(name.as_str(), "--follow" | "--tail"));
    assert_eq!(out, Vec::<String>::new());
}
