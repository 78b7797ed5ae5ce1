//! From configuration to a serving daemon (spec 02 §12.2, §12.3), and back (§13).
//!
//! What the last run knew is served before EC2 is asked anything: IMDS, the checkpoint and the journal are local.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use reservoir_cloud::{AwsCloud, Cloud};
use reservoir_core::cloud::{Answer, AttachedInterface, CloudError, Instance, Request};
use reservoir_core::kube::EniConfigKeys;
use reservoir_core::limits::{CardLimits, Hypervisor, InstanceLimits, trunk_compatible};
use reservoir_core::manager::{self, Manager, OnCard, Settings, managed_cards};
use reservoir_core::policy::Family;
use reservoir_core::store::EniSpec;
use reservoir_kube::{KubeConfig, Kubernetes};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::aws::{self, Sdk};
use crate::clock::{self, Clock};
use crate::cloud::Guarded;
use crate::config::{Config, Effective, HostNetwork as Network, max_pods};
use crate::grpc;
use crate::introspect;
use crate::kubernetes;
use crate::lock::{self, Lock, LockError};
use crate::metrics::{Action, Metrics, PodEniError, StartFailure};
use crate::network::{HostNetwork, KernelNetwork, NoNetwork};
use crate::policy::{Policy, Sources};
use crate::pool::{Edges, Pool};
use crate::recovery;
use crate::vpc::Vpc;
use crate::watch;
use crate::{files, http};

/// How long calls under way may take once the daemon is told to end; the kubelet waits for [`GRACE`].
const LAST_CALLS: Duration = Duration::from_secs(8);
/// terminationGracePeriodSeconds of the reference's manifest (spec 05 §2).
const GRACE: Duration = Duration::from_secs(10);
const _: () = assert!(LAST_CALLS.as_secs() < GRACE.as_secs(), "the checkpoint is written after the last calls");
/// Between looks whether nothing is half done any more.
const REST_LOOK: Duration = Duration::from_millis(20);
/// Between looks whether the first addresses are there.
const READINESS_LOOK: Duration = Duration::from_millis(100);

/// Runs the daemon until it is told to end.
///
/// # Errors
/// Whatever keeps it from serving, in words for the operator.
pub async fn run(config: Config, sdk: Sdk, kube: KubeConfig, metrics: Metrics) -> Result<()> {
    let started = Instant::now();
    let clock = Clock::start();
    let _lock = take_checkpoint(&config.provisioning.backing_store)?;
    metrics.install().context("metrics")?;
    let mut servers = tokio::task::JoinSet::new();
    if let Some(listen) = config.metrics.clone() {
        // Before anything can fail (spec 02 W24).
        servers.spawn(http::serve_metrics(listen, metrics.clone()));
    }
    let need = kubernetes::need(&config);
    let began = kubernetes::begin(&config, &kube).await;
    let (kubernetes, first) =
        began.inspect_err(|_| metrics.started(StartFailure::ApiServer, false, started.elapsed()))?;
    let initialising = Instant::now();
    let in_progress = metrics.action(Action::NodeInit);
    // Where the API server is not required it is looked for while IMDS is read.
    let looking = async { if first.reached { first } else { kubernetes::first_look(&*kubernetes).await } };
    let (first, result) = tokio::join!(looking, start(&config, sdk, kubernetes.clone(), &metrics, clock));
    drop(in_progress);
    metrics.node_initialised(result.is_ok(), initialising.elapsed());
    let unread = first.reached && first.node.is_none() && !config.identity.node_name.is_empty();
    if result.is_err() || unread {
        metrics.pod_eni_error(PodEniError::NodeInit);
    }
    let failure = if result.is_ok() { StartFailure::None } else { StartFailure::NodeInit };
    metrics.started(failure, first.reached, started.elapsed());
    let Running { pool, facts, commands, cloud } = result?;
    if let Some(node) = first.node.clone() {
        pool.node_changed(node);
    }

    let driver = tokio::spawn(pool.clone().run(commands));
    // They end with the pool and the service that they serve.
    tokio::spawn(kubernetes::follow(Arc::downgrade(&pool), kubernetes, need, first));
    tokio::spawn(watch::keep(Arc::downgrade(&pool), clock));
    tokio::spawn(Vpc::keep(Arc::downgrade(&facts.vpc), clock, cloud, pool.network().clone()));
    let writer = {
        let pool = pool.clone();
        std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || pool.write_checkpoints())
            .context("the checkpoint thread")?
    };
    let figures = pool.clone();
    metrics.set_pool_source(move || introspect::figures(&figures));
    if let Some(listen) = config.introspection.clone() {
        let (config, state) = (config.clone(), Arc::new(introspect::State(pool.clone())));
        servers.spawn(async move { http::serve_introspection(listen, &config, state).await });
    }

    let listener = grpc::listen(&config.reservoir.socket)
        .with_context(|| format!("cannot listen on {}", config.reservoir.socket.display()))?;
    tracing::info!(
        socket = %config.reservoir.socket.display(),
        took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "serving"
    );
    let (stop, stopped) = oneshot::channel::<()>();
    let told = Arc::new(OnceLock::new());
    let shutdown = {
        let (pool, told) = (pool.clone(), told.clone());
        async move {
            end_asked().await;
            tracing::info!("told to end: no more requests to EC2, calls under way finish");
            let _ = told.set(Instant::now());
            pool.terminate();
            // The receiver is gone only if serving has failed already.
            let _ = stop.send(());
        }
    };
    // The reference does not start where its first growth fails (spec 01 §2.5, §9; spec 02 §12.3): this one is not called
    // ready, so that no pods are sent here.
    let ready = {
        let pool = pool.clone();
        async move { addresses(&pool).await }
    };
    let serving = grpc::serve(listener, grpc::Service::new(pool.clone(), facts), ready, shutdown);
    tokio::pin!(serving);
    let mut stopped = stopped;
    let served = tokio::select! {
        served = &mut serving => served,
        () = pool.policy().failed() => Err("the policy runtime cannot be started".into()),
        _ = &mut stopped => match tokio::time::timeout(LAST_CALLS, &mut serving).await {
            Ok(served) => served,
            Err(_) => {
                tracing::warn!("calls that did not end in time are cut off");
                Ok(())
            }
        },
    };
    if let Some(told) = told.get() {
        come_to_rest(&pool, *told + LAST_CALLS).await;
    }
    pool.stop();
    drop(servers);
    driver.abort();
    if tokio::task::spawn_blocking(move || writer.join()).await.is_err() {
        tracing::error!("the checkpoint thread did not end well");
    }
    if let Err(error) = fs::remove_file(&config.reservoir.socket) {
        tracing::warn!(socket = %config.reservoir.socket.display(), "the socket stays: {error}");
    }
    served.map_err(|e| anyhow!("gRPC: {e}"))
}

/// Before anything of another daemon's is touched. Where there can be no lock there can hardly be a checkpoint either, of
/// which more is said when it is read.
fn take_checkpoint(checkpoint: &Path) -> Result<Option<Lock>> {
    match lock::take(checkpoint) {
        Ok(lock) => Ok(Some(lock)),
        Err(held @ LockError::Held { .. }) => Err(held.into()),
        Err(error @ LockError::Io { .. }) => {
            tracing::warn!("a second daemon would not be noticed: {error}");
            Ok(None)
        }
    }
}

/// Ends when nothing is half done any more, or at `until` (spec 02 §13: at a safe point). What is left the journal knows.
async fn come_to_rest(pool: &Pool, until: Instant) {
    let rest = async {
        while !pool.look(|manager, _| manager.is_at_rest()) {
            tokio::time::sleep(REST_LOOK).await;
        }
    };
    if tokio::time::timeout_at(until.into(), rest).await.is_err() {
        tracing::warn!("interfaces that are being made or removed are left to the next start");
    }
}

/// Ends when the pool has what the node needs to be called ready.
async fn addresses(pool: &Pool) {
    let mut told = String::new();
    while let Err(lacking) = pool.look(|manager, _| manager.readiness()) {
        if lacking != told {
            tracing::info!("the node is not ready yet: {lacking}");
            told = lacking;
        }
        tokio::time::sleep(READINESS_LOOK).await;
    }
    if !told.is_empty() {
        tracing::info!("the node is ready");
    }
}

async fn end_asked() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("signals cannot be watched; only SIGKILL ends this process");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

struct Running {
    pool: Arc<Pool>,
    facts: grpc::Facts,
    commands: tokio::sync::mpsc::UnboundedReceiver<manager::Command>,
    cloud: Arc<dyn Cloud>,
}

async fn start(
    config: &Config,
    sdk: Sdk,
    kubernetes: Arc<dyn Kubernetes>,
    metrics: &Metrics,
    clock: Clock,
) -> Result<Running> {
    let (cloud, instance) = AwsCloud::connect(aws::cloud_config(config, sdk)).await?;
    let cloud: Arc<dyn Cloud> =
        Arc::new(Guarded::new(Arc::new(cloud), kubernetes.clone(), config.provisioning.imds_only));
    tracing::info!(
        instance = instance.instance_id,
        r#type = instance.instance_type,
        zone = instance.availability_zone,
        "this is the node"
    );
    let family = if config.modes.ipv6 { Family::Ipv6 } else { Family::Ipv4 };
    let (attached, vpc) =
        tokio::join!(cloud.call(Request::AttachedInterfaces), Vpc::read(&*cloud, &instance.mac, family));
    let Answer::Attached(attached) = attached.context("the attached interfaces")? else {
        return Err(anyhow!("IMDS: the attached interfaces were answered with something else"));
    };
    let vpc = Arc::new(vpc.context("the VPC's address blocks")?);
    let limits = limits(config, &*cloud, &instance, &attached).await?;
    let (effective, report) = config.validate(&limits);
    report.log();
    if report.is_fatal() {
        return Err(anyhow!("the configuration does not fit this instance type; each problem is logged above"));
    }

    let network: Arc<dyn HostNetwork> = match config.datapath.host_network {
        Network::Kernel => Arc::new(KernelNetwork::new(config, limits.enis, metrics.clone())),
        Network::None => Arc::new(NoNetwork),
    };
    let checkpoint = config.provisioning.backing_store.clone();
    let on_cards = on_cards(config, &*cloud, &instance, &attached).await;
    let cards = managed_cards(config.modes.multi_nic, &limits, &on_cards);
    let mut found = {
        let cards = cards.clone();
        let (network, instance, vpc) = (network.clone(), instance.clone(), vpc.ipv4());
        let (checkpoint, unix) = (checkpoint.clone(), clock.now().unix.as_secs());
        let ipv6 = config.modes.ipv6;
        tokio::task::spawn_blocking(move || -> Result<Vec<(u32, recovery::Found)>> {
            network
                .set_up_host(&instance.mac, instance.local_ipv4, &vpc)
                .map_err(|e| anyhow!("failed to set up the host's network: {e}"))?;
            let mut all = recovery::read_cards(&checkpoint, &cards, &*network, unix, ipv6)?;
            // Rules of an address that any card's file still knows are in use.
            let kept: Vec<_> = all.iter().flat_map(|(_, f)| &f.kept).map(|(_, ip)| *ip).collect();
            for (_, found) in &mut all {
                found.prune.retain(|ip| !kept.contains(ip));
                network.prune(&found.prune);
            }
            Ok(all)
        })
        .await??
    };
    vpc.applied(clock.now().mono);

    let journal_path = files::journal_path(&checkpoint);
    files::remove_stale(&journal_path);
    let journal = files::read_journal(&journal_path);
    let settings = settings(config, &instance, limits, effective, cards);
    let mut manager = Manager::new(settings);
    let shown: Vec<EniSpec> = attached.iter().map(|interface| manager.spec_shown(interface)).collect();
    let choosing = network.clone();
    for (eni, table) in tokio::task::spawn_blocking(move || tables(&*choosing, shown)).await? {
        manager.note_table(eni, table);
    }
    manager.boot(clock.now(), &attached, journal);
    let living: Vec<_> = found
        .iter()
        .flat_map(|(_, found)| &found.kept)
        .filter_map(|(_, ip)| match ip {
            std::net::IpAddr::V4(ip) => Some(*ip),
            std::net::IpAddr::V6(_) => None,
        })
        .collect();
    tracing::info!(pods = living.len(), "pods of the last run");
    let rewrite = found.iter().any(|(_, found)| found.rewrite);
    let unproven = found.iter_mut().flat_map(|(_, found)| std::mem::take(&mut found.unproven)).collect();
    manager.restore(found.into_iter().map(|(card, found)| (card, found.kept)).collect());
    let refresh = network.clone();
    if let Err(error) = tokio::task::spawn_blocking(move || refresh.refresh(&living)).await? {
        tracing::warn!("rules of living pods were not looked at: {error}");
    }

    let sources = Sources {
        dir: config.reservoir.policy_dir.clone(),
        shadow_dir: config.reservoir.shadow_policy_dir.clone(),
        pin: config.reservoir.policy_pin,
        cache: config.reservoir.policy_cache.dir(&checkpoint),
    };
    let policy = Policy::new(sources, metrics.clone());
    let (asked, metrics) = (cloud.clone(), metrics.clone());
    let edges = Edges { cloud: asked, network, kubernetes, metrics, clock, checkpoint, policy };
    let (pool, commands) = Pool::new(manager, edges);
    if rewrite && let Err(error) = pool.write_now() {
        tracing::warn!("the checkpoint could not be written again: {error}");
    }
    recovery::look_again(&pool, unproven);
    let node_ip = match family {
        Family::Ipv4 => instance.local_ipv4.to_string(),
        Family::Ipv6 => instance.local_ipv6.map(|ip| ip.to_string()).unwrap_or_default(),
    };
    let facts = grpc::Facts {
        external_snat: config.datapath.external_snat,
        excluded_from_snat: config.datapath.exclude_snat_cidrs.clone(),
        vpc,
        ipv6: config.modes.ipv6,
        network_policy_mode: config.datapath.network_policy_mode.clone().unwrap_or_default(),
        multi_nic: config.modes.multi_nic,
        pod_eni: config.modes.pod_eni,
        add_wait: config.reservoir.add_wait,
        annotate: config.modes.annotate_pod_ip,
        node_ip,
        instance_id: instance.instance_id,
        region: instance.region,
    };
    Ok(Running { pool, facts, commands, cloud })
}

/// The tables that the host's rules choose for interfaces whose pods are served before they are set up again.
fn tables(network: &dyn HostNetwork, shown: Vec<EniSpec>) -> Vec<(String, u32)> {
    let chosen = shown.into_iter().filter_map(|eni| match network.table(&eni) {
        Ok(table) => (table != eni.table).then_some((eni.id, table)),
        Err(error) => {
            tracing::warn!(eni = eni.id, "which route table it has is not known, the usual one is taken: {error}");
            None
        }
    });
    chosen.collect()
}

/// What is attached to which card; EC2 is asked where its tags decide which cards are managed (spec 01 §10.1).
async fn on_cards(
    config: &Config,
    cloud: &dyn Cloud,
    instance: &Instance,
    attached: &[AttachedInterface],
) -> Vec<OnCard> {
    let untagged = config.provisioning.manage_untagged_eni;
    let shown = manager::on_cards(attached, &[], instance, untagged);
    if !manager::tags_decide(config.modes.multi_nic, &shown) {
        return shown;
    }
    let ids = attached.iter().map(|i| i.eni.clone()).collect();
    match cloud.call(Request::DescribeNetworkInterfaces { ids }).await {
        Ok(Answer::Interfaces(told)) => manager::on_cards(attached, &told, instance, untagged),
        Ok(_) => shown,
        Err(error) => {
            tracing::warn!("which cards are managed is decided without EC2's tags: {error}");
            shown
        }
    }
}

async fn limits(
    config: &Config,
    cloud: &dyn Cloud,
    instance: &Instance,
    attached: &[AttachedInterface],
) -> Result<InstanceLimits> {
    if let Some(limits) = InstanceLimits::of(&instance.instance_type) {
        return Ok(limits);
    }
    let instance_type = instance.instance_type.clone();
    if config.provisioning.imds_only {
        tracing::warn!(
            r#type = instance_type,
            "the limits of this instance type are not known; what is attached is the limit"
        );
        return Ok(limits_of_attached(attached));
    }
    match cloud.call(Request::DescribeInstanceType { instance_type }).await {
        Ok(Answer::InstanceType(limits)) => Ok(limits),
        Ok(_) => Err(anyhow!("DescribeInstanceTypes was answered with something else")),
        Err(error) => {
            let error: CloudError = error;
            Err(error).context(format!("the limits of instance type {:?} are not known", instance.instance_type))
        }
    }
}

/// In place of EC2's limits where EC2 is not asked (spec 03 W-23): nothing grows then, so what is there is the limit. A
/// type too new for the table is Nitro.
fn limits_of_attached(attached: &[AttachedInterface]) -> InstanceLimits {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let on = |card: u32| count(attached.iter().filter(|i| i.card == card).count());
    let held = attached.iter().map(|i| 1 + i.secondary.len() + i.prefixes.len()).max();
    let cards: BTreeSet<u32> = attached.iter().map(|i| i.card).collect();
    InstanceLimits {
        enis: cards.iter().map(|c| on(*c)).max().unwrap_or(1),
        ipv4_per_eni: count(held.unwrap_or(1)).max(2),
        default_card: 0,
        hypervisor: Hypervisor::Nitro,
        bare_metal: false,
        cards: cards.iter().map(|c| CardLimits { index: *c, max_enis: on(*c) }).collect(),
    }
}

fn settings(
    config: &Config,
    instance: &Instance,
    limits: InstanceLimits,
    effective: Effective,
    cards: Vec<u32>,
) -> Settings {
    let content = fs::read_to_string(max_pods::FILE).unwrap_or_default();
    let max_pods = max_pods::of_file(&content, &instance.instance_type).unwrap_or_else(|error| {
        tracing::info!(default = max_pods::DEFAULT, "max-pods: {error}");
        max_pods::DEFAULT
    });
    Settings {
        instance: instance.clone(),
        limits,
        cards,
        max_enis: effective.max_enis,
        max_pods,
        family: if config.modes.ipv6 { Family::Ipv6 } else { Family::Ipv4 },
        unit: effective.unit,
        custom_networking: config.modes.custom_networking,
        eni_config_keys: EniConfigKeys::new(
            &config.provisioning.eni_config_annotation,
            &config.provisioning.eni_config_label,
        ),
        pod_eni: config.modes.pod_eni,
        trunk_compatible: trunk_compatible(&instance.instance_type),
        manage_non_schedulable: config.provisioning.manage_non_schedulable,
        targets: config.targets(),
        cooldown: Duration::from_secs(u64::try_from(config.pool.ip_cooldown_seconds).unwrap_or(0)),
        node_name: config.identity.node_name.clone(),
        cluster_name: config.provisioning.cluster_name.clone(),
        additional_tags: config.provisioning.additional_tags.clone().into_iter().collect(),
        manage_untagged: config.provisioning.manage_untagged_eni,
        subnet_discovery: config.provisioning.subnet_discovery,
        provisioning: !config.provisioning.disabled,
        ec2: !config.provisioning.imds_only,
        clean_up: !config.provisioning.leaked_eni_cleanup_disabled,
        add_wait: config.reservoir.add_wait,
        // The standard library's hasher is seeded by the system: nodes must not back off in step.
        seed: RandomState::new().build_hasher().finish(),
        booted: clock::booted(),
    }
}
