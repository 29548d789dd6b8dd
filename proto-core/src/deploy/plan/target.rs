use std::collections::BTreeMap;

use crate::api::{ErrorBody, OperationRequest};
use crate::deploy::spec::{Replicas, ServiceSpec};
use crate::id::{Namespace, ServiceName};
use crate::store::Facts;
use crate::store::facts::Commit;

/// What a namespace shall be.
#[derive(Debug, Clone, Default)]
pub(super) struct Target {
    pub(super) services: BTreeMap<ServiceName, TargetService>,
    pub(super) removes_namespace: bool,
    /// The commit that a rollback goes back to.
    pub(super) restores: Option<u64>,
}

impl Target {
    /// A few words for listings; a rollback says to which commit, also where that was not asked for by its number.
    pub(super) fn summary(&self, request: &OperationRequest) -> String {
        match (request, self.restores) {
            (OperationRequest::Rollback { namespace, .. }, to @ Some(_)) => {
                OperationRequest::Rollback { namespace: namespace.clone(), to }.summary()
            }
            _ => request.summary(),
        }
    }
}

/// What a service shall be.
#[derive(Debug, Clone)]
pub(super) struct TargetService {
    pub(super) spec: ServiceSpec,
    /// It keeps its spec and has no instances.
    pub(super) stopped: bool,
    /// No instance is kept.
    pub(super) renew: bool,
}

/// Reads a request as what the namespace shall be after it.
pub(super) fn target(request: &OperationRequest, facts: &Facts) -> Result<Target, ErrorBody> {
    let namespace = request.namespace();
    let mut restores = None;
    let mut services = match request {
        OperationRequest::Deploy { manifest } => {
            let services = manifest.services.clone().into_iter();
            services.map(|(name, spec)| (name, TargetService::running(spec))).collect()
        }
        OperationRequest::Rollback { to, .. } => {
            let head = head(namespace, facts)?;
            let to = to.unwrap_or(head.number.saturating_sub(1));
            let commit = facts.commits.get(&to).ok_or_else(|| {
                let message = match to {
                    0 => format!("namespace {namespace} has no commit before its first"),
                    to => format!("namespace {namespace} has no commit {to}"),
                };
                let next = format!("ployzctl deploy history {namespace}");
                ErrorBody::new("NO_SUCH_COMMIT", message).next(next)
            })?;
            restores = Some(to);
            committed(commit, facts)?
        }
        OperationRequest::RemoveNamespace { .. } => {
            if facts.head.is_none() {
                return Err(no_namespace(namespace, facts));
            }
            return Ok(Target { removes_namespace: true, ..Target::default() });
        }
        _ => match facts.head_commit() {
            Some(head) => committed(head, facts)?,
            None => BTreeMap::new(),
        },
    };
    match request {
        OperationRequest::Deploy { .. }
        | OperationRequest::Rollback { .. }
        | OperationRequest::RemoveNamespace { .. } => {}
        OperationRequest::DeployService { service, spec, .. } => {
            services.insert(service.clone(), TargetService::running((**spec).clone()));
        }
        OperationRequest::Scale { replicas, .. } => {
            for (name, count) in replicas {
                let service = find(&mut services, namespace, name, facts)?;
                if service.spec.placement.replicas == Replicas::Global {
                    let message = format!(
                        "{namespace}/{name} has one instance on each machine; it cannot be scaled"
                    );
                    let next = format!("ployzctl deploy show {namespace}");
                    return Err(ErrorBody::new("NOT_SCALABLE", message).next(next));
                }
                service.spec.placement.replicas = Replicas::Count(*count);
                service.stopped = false;
            }
        }
        OperationRequest::Restart { service: name, .. } => {
            let service = find(&mut services, namespace, name, facts)?;
            // To say that it is done already would be to say that something runs.
            if service.spec.placement.replicas == Replicas::Count(0) {
                let message = format!("{namespace}/{name} has no instances: it is scaled to 0");
                let next = format!("ployzctl scale {namespace}/{name}=1");
                return Err(ErrorBody::new("NOTHING_TO_RESTART", message).next(next));
            }
            (service.renew, service.stopped) = (true, false);
        }
        OperationRequest::Stop { service: name, .. } => {
            find(&mut services, namespace, name, facts)?.stopped = true;
        }
    }
    Ok(Target { services, removes_namespace: false, restores })
}

impl TargetService {
    fn running(spec: ServiceSpec) -> Self {
        Self { spec, stopped: false, renew: false }
    }
}

fn head<'a>(namespace: &Namespace, facts: &'a Facts) -> Result<&'a Commit, ErrorBody> {
    facts.head_commit().ok_or_else(|| no_namespace(namespace, facts))
}

/// The namespace is not there: it never was, or it was removed, and then by which operation and when.
#[must_use]
pub fn no_namespace(namespace: &Namespace, facts: &Facts) -> ErrorBody {
    let removed = facts.head.as_ref().filter(|head| head.value.removed);
    let (message, next) = match removed.map(|head| facts.commits.get(&head.value.commit)) {
        None => (format!("there is no namespace {namespace}"), "ployzctl namespace ls".to_owned()),
        Some(commit) => {
            let by = commit.map_or_else(String::new, |Commit { operation, at, .. }| {
                format!(" by operation {operation} at {at}")
            });
            let message =
                format!("namespace {namespace} was removed{by}; its commits are still known");
            (message, format!("ployzctl deploy history {namespace}"))
        }
    };
    ErrorBody::new("NO_SUCH_NAMESPACE", message).next(next)
}

fn find<'a>(
    services: &'a mut BTreeMap<ServiceName, TargetService>,
    namespace: &Namespace,
    name: &ServiceName,
    facts: &Facts,
) -> Result<&'a mut TargetService, ErrorBody> {
    head(namespace, facts)?;
    services.get_mut(name).ok_or_else(|| {
        let message = format!("namespace {namespace} has no service {name}");
        let next = format!("ployzctl namespace inspect {namespace}");
        ErrorBody::new("NO_SUCH_SERVICE", message).next(next)
    })
}

fn committed(
    commit: &Commit,
    facts: &Facts,
) -> Result<BTreeMap<ServiceName, TargetService>, ErrorBody> {
    let service = |(name, committed): (&ServiceName, &crate::store::facts::CommittedService)| {
        let spec = facts.revisions.get(&committed.revision).cloned().ok_or_else(|| {
            let message = format!(
                "revision {} of {}/{name} is not in the store",
                committed.revision, commit.namespace
            );
            ErrorBody::new("FACT_UNREADABLE", message).next("ployzctl doctor")
        })?;
        Ok((name.clone(), TargetService { spec, stopped: committed.stopped, renew: false }))
    };
    commit.services.iter().map(service).collect()
}
