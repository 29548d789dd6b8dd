//! Commands that change a namespace or show its commits.

use std::collections::BTreeMap;
use std::path::Path;

use proto_core::api::prepared::{self, Prepared};
use proto_core::api::views::{CommitView, InstancesView, NamespaceView};
use proto_core::api::{ErrorBody, OperationRequest, OperationResult, Submission};
use proto_core::deploy::manifest::{self, Format, ManifestProblem};
use proto_core::deploy::spec::{Manifest, ServiceSpec};
use proto_core::id::{Namespace, ServiceName};
use proto_core::store::facts::Commit;
use serde_json::json;

use crate::args::{
    ChangeArgs, DeployCommand, MANIFEST, ManifestArg, NamespaceCommand, ScaleTarget, ServiceRef,
};
use crate::client::Client;
use crate::failure::{Failure, OK, REFUSED, USAGE};
use crate::file;
use crate::next;
use crate::operation;
use crate::out::Out;
use crate::render::{self, count};

/// `deploy` and what is under it.
pub(crate) async fn deploy(
    client: &Client,
    out: Out,
    file: ManifestArg,
    command: Option<DeployCommand>,
) -> Result<u8, Failure> {
    match command {
        None => {
            let request = OperationRequest::Deploy { manifest: read_manifest(out, &file)? };
            operation::run(client, out, &Submission::Apply { request }).await
        }
        Some(DeployCommand::Preview { manifest }) => {
            let request = OperationRequest::Deploy { manifest: read_manifest(out, &manifest)? };
            operation::run(client, out, &Submission::Preview { request }).await
        }
        Some(DeployCommand::Prepare { manifest, output }) => {
            let request = OperationRequest::Deploy { manifest: read_manifest(out, &manifest)? };
            prepare(client, out, request, &manifest.file, output.as_deref()).await
        }
        Some(DeployCommand::ApplyPrepared { file }) => {
            let Prepared { request, plan, manifest, .. } = read_prepared(&file)?;
            let again = prepare_again(manifest.as_deref(), &file);
            let submission = Submission::ApplyPrepared { request, plan };
            operation::run_prepared(client, out, &submission, again).await
        }
        Some(DeployCommand::Service { service, image, change }) => {
            let ServiceRef { namespace, service } = service;
            let head = commit(client, &namespace, None).await?;
            let mut spec = Box::new(find(&head, &service)?.clone());
            spec.workload.image = image;
            self::change(
                client,
                out,
                OperationRequest::DeployService { namespace, service, spec },
                change,
            )
            .await
        }
        Some(DeployCommand::History { namespace }) => {
            let commits: Vec<Commit> =
                client.get(&format!("/v1/namespaces/{namespace}/commits")).await?;
            out.document(&commits, |commits| render::commit::history(commits))?;
            Ok(OK)
        }
        Some(DeployCommand::Show { namespace, commit }) => {
            let view = self::commit(client, &namespace, commit).await?;
            out.document(&view, render::commit::show)?;
            Ok(OK)
        }
    }
}

/// Asks for a change, or for its plan.
pub(crate) async fn change(
    client: &Client,
    out: Out,
    request: OperationRequest,
    args: ChangeArgs,
) -> Result<u8, Failure> {
    let submission =
        if args.preview { Submission::Preview { request } } else { Submission::Apply { request } };
    operation::run(client, out, &submission).await
}

/// `scale`.
pub(crate) fn scale(targets: Vec<ScaleTarget>) -> Result<OperationRequest, Failure> {
    let usage = |message| {
        Failure::new(USAGE, ErrorBody::new("USAGE", message).next("ployzctl scale --help"))
    };
    // clap wants at least one.
    let namespace = targets[0].service.namespace.clone();
    let mut replicas = BTreeMap::new();
    for ScaleTarget { service, replicas: n } in targets {
        if service.namespace != namespace {
            let message =
                format!("{service} is not in {namespace}: one namespace at a time is scaled");
            return Err(usage(message));
        }
        if replicas.insert(service.service.clone(), n).is_some() {
            return Err(usage(format!("{service} is named twice")));
        }
    }
    Ok(OperationRequest::Scale { namespace, replicas })
}

/// `rollback`.
pub(crate) async fn rollback(
    client: &Client,
    out: Out,
    namespace: Namespace,
    to: Option<u64>,
    render: bool,
    args: ChangeArgs,
) -> Result<u8, Failure> {
    if !render {
        return change(client, out, OperationRequest::Rollback { namespace, to }, args).await;
    }
    let number = match to {
        Some(number) => number,
        None => match commit(client, &namespace, None).await?.commit.number {
            0 | 1 => {
                let message =
                    format!("{namespace} has one commit only: there is none to go back to");
                let next = format!("ployzctl deploy history {namespace}");
                let error = ErrorBody::new("NO_SUCH_COMMIT", message).next(next);
                return Err(Failure::new(REFUSED, error));
            }
            head => head - 1,
        },
    };
    let view = commit(client, &namespace, Some(number)).await?;
    out.document(&manifest::document(&view.manifest), |_| manifest::render(&view.manifest))?;
    Ok(OK)
}

/// `namespace …`.
pub(crate) async fn namespace(
    client: &Client,
    out: Out,
    command: NamespaceCommand,
) -> Result<u8, Failure> {
    match command {
        NamespaceCommand::Ls => {
            let views: Vec<NamespaceView> = client.get("/v1/namespaces").await?;
            out.document(&views, |views| render::status::namespaces(views))?;
            Ok(OK)
        }
        NamespaceCommand::Inspect { namespace } => {
            let head = commit(client, &namespace, None).await?;
            let instances: InstancesView =
                client.get(&format!("/v1/instances?namespace={namespace}")).await?;
            out.document(&json!({ "commit": head, "instances": instances }), |_| {
                format!(
                    "{}\n{}",
                    render::commit::head(&head),
                    render::status::instances(&instances)
                )
            })?;
            Ok(OK)
        }
        NamespaceCommand::Rm { namespace, change } => {
            if !change.preview {
                let question = format!("Remove the namespace {namespace} with all its services?");
                out.confirm(&question, &format!("ployzctl namespace rm {namespace}"))?;
            }
            self::change(client, out, OperationRequest::RemoveNamespace { namespace }, change).await
        }
    }
}

pub(crate) async fn commit(
    client: &Client,
    ns: &Namespace,
    number: Option<u64>,
) -> Result<CommitView, Failure> {
    let number = number.map_or_else(|| "head".to_owned(), |n| n.to_string());
    client.get(&format!("/v1/namespaces/{ns}/commits/{number}")).await
}

/// A service of a commit.
pub(crate) fn find<'a>(
    head: &'a CommitView,
    service: &ServiceName,
) -> Result<&'a ServiceSpec, Failure> {
    let services = &head.manifest.services;
    services.get(service).ok_or_else(|| {
        let namespace = &head.manifest.namespace;
        let known: Vec<_> = services.keys().map(|name| name.as_str()).collect();
        let message = match known.as_slice() {
            [] => format!("{namespace} has no service {service}; it has none"),
            known => format!("{namespace} has no service {service}; it has: {}", known.join(", ")),
        };
        let error = ErrorBody::new("NO_SUCH_SERVICE", message);
        Failure::new(REFUSED, error.next(format!("ployzctl deploy show {namespace}")))
    })
}

/// `validate`.
pub(crate) fn validate(out: Out, file: &ManifestArg) -> Result<u8, Failure> {
    let manifest = read_manifest(out, file)?;
    let (namespace, services, digest) =
        (&manifest.namespace, manifest.services.len(), manifest.digest());
    let document =
        json!({ "ok": true, "namespace": namespace, "services": services, "digest": digest });
    out.document(&document, |_| {
        format!(
            "ok: namespace {namespace}, {}, digest {}\n",
            count(services, "service"),
            digest.short()
        )
    })?;
    Ok(OK)
}

pub(crate) fn read_manifest(out: Out, file: &ManifestArg) -> Result<Manifest, Failure> {
    next::name_manifest(&file.file);
    let read = file::read(&file.file, manifest::MAX_BYTES, "ployzctl validate --help");
    let (name, bytes) = read.map_err(|failure| match failure {
        Failure::Error { mut error, exit } if file.file == Path::new(MANIFEST) => {
            error.message += "; `-f FILE` names another manifest";
            Failure::Error { error, exit }
        }
        other => other,
    })?;
    parse_manifest(&name, &bytes).map_err(|problems| {
        let next = format!("ployzctl validate -f {}", next::quoted(&file.file.to_string_lossy()));
        if out.json {
            // Nobody may be left to read it; the exit code says it too.
            _ = out.json(&json!({ "ok": false, "problems": problems, "next": next }));
        }
        let mut text: String = problems.iter().map(problem_text).collect();
        text += &format!("{}\n", next::line(&next));
        _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
        Failure::Printed { exit: USAGE }
    })
}

fn parse_manifest(name: &str, bytes: &[u8]) -> Result<Manifest, Vec<ManifestProblem>> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        // It may have been cut within a character; that it is too long is what is wrong with it.
        Err(_) if bytes.len() > manifest::MAX_BYTES => String::from_utf8_lossy(bytes),
        Err(error) => {
            let (line, column) = file::place(bytes, error.valid_up_to());
            return Err(vec![ManifestProblem {
                code: manifest::Code::ManifestSyntax,
                message: format!("byte 0x{:02x} is no UTF-8", bytes[error.valid_up_to()]),
                file: name.to_owned(),
                line,
                column,
                path: String::new(),
                hint: Some("save the file as UTF-8".to_owned()),
            }]);
        }
    };
    manifest::parse(&text, Format::guess(name, &text), name)
}

/// `ployz.toml:3:1: error[UNKNOWN_KEY]: …`, and under it what to do.
fn problem_text(problem: &ManifestProblem) -> String {
    let ManifestProblem { code, message, file, line, column, path, hint } = problem;
    let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
    let mut out = format!("{file}:{line}:{column}: error[{code}]: {path}{message}\n");
    if let Some(hint) = hint {
        out += &format!("    hint: {hint}\n");
    }
    out
}

/// The command that wrote this file from this manifest.
fn prepare_again(manifest: Option<&str>, file: &Path) -> String {
    let mut command = "ployzctl deploy prepare".to_owned();
    // Standard input is gone; `./ployz.toml` needs no naming.
    let named = manifest.filter(|name| ![MANIFEST, "-"].contains(name));
    command += &named.map(|name| format!(" -f {}", next::quoted(name))).unwrap_or_default();
    if file != Path::new("-") {
        command += &format!(" -o {}", next::quoted(&file.to_string_lossy()));
    }
    command
}

async fn prepare(
    client: &Client,
    out: Out,
    request: OperationRequest,
    manifest: &Path,
    output: Option<&Path>,
) -> Result<u8, Failure> {
    // Standard output belongs to the file, so progress is not shown.
    let silent = out.silent();
    let submission = Submission::Preview { request: request.clone() };
    let result = operation::watch(client, silent, &submission).await?;
    let OperationResult::Previewed { plan, digest } = result else {
        return operation::conclude(out, &result);
    };
    let manifest = manifest.to_string_lossy().into_owned();
    let prepared = Prepared::new(request, plan, Some(manifest));
    let Some(path) = output else {
        out.json(&prepared)?;
        return Ok(OK);
    };
    write_private(path, &prepared.text()).map_err(|error| Failure::file("write", path, &error))?;
    let path = path.display();
    out.document(&json!({ "file": path.to_string(), "digest": digest }), |_| {
        let plan = render::plan::plan(&prepared.plan, &digest);
        let next = next::line(&format!("ployzctl deploy apply-prepared {path}"));
        format!("{plan}\n{next}\n")
    })?;
    Ok(OK)
}

/// A plan holds the environment of its services: for its owner only, also where the file was there before.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())
}

fn read_prepared(path: &Path) -> Result<Prepared, Failure> {
    let (name, bytes) = file::read(path, prepared::MAX_BYTES, "ployzctl deploy prepare --help")?;
    Prepared::parse(&bytes).map_err(|error| {
        let error = ErrorBody::new("PREPARED_INVALID", format!("{name} {error}"));
        Failure::new(USAGE, error.next(prepare_again(None, path)))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_prepared_plan_is_for_its_owner_only() {
        let path = std::env::temp_dir().join(format!("ployzctl-plan-{}", std::process::id()));
        std::fs::write(&path, "older and open to all").unwrap();
        super::write_private(&path, "plan").unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((mode & 0o777, text.as_str()), (0o600, "plan"));
    }
}
