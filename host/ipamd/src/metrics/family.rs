//! Every metric family: name, type, labels, help. The only place that spells a name (spec 02 §9.2; `tests/vectors/metrics.json`).

/// One family.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Counter,
    Gauge,
    /// Quantiles 0.5, 0.9 and 0.99 of the last ten minutes (W21).
    Summary,
    /// Upper bounds, ascending, without infinity.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The word of a `# TYPE` line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Summary => "summary",
            Self::Histogram(_) => "histogram",
        }
    }
}

macro_rules! families {
    ($($id:ident: $name:literal, $kind:expr, [$($label:literal),*], $help:literal;)*) => {
        $(pub const $id: Family = Family { name: $name, kind: $kind, labels: &[$($label),*], help: $help };)*
        /// All of them.
        pub const ALL: &[Family] = &[$($id),*];
    };
}

use Kind::{Counter, Gauge, Histogram, Summary};

/// Prometheus's default buckets, seconds.
const DEFAULT: Kind = Histogram(&[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);
const MICROSECONDS: Kind =
    Histogram(&[10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 0.1, 1.0]);
const WAITS: Kind = Histogram(&[0.001, 0.01, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 15.0, 30.0, 60.0]);
const FUEL: Kind = Histogram(&[1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9]);

families! {
    BUILD_INFO: "awscni_build_info", Gauge, ["version", "goversion"], "Always 1; the build's version, and the compiler's in goversion.";
    ENI_MAX: "awscni_eni_max", Gauge, [], "ENIs that may be used on this instance, without those that are not managed.";
    IP_MAX: "awscni_ip_max", Gauge, [], "Pod IPv4 addresses that the usable ENIs could hold.";
    ENI_ALLOCATED: "awscni_eni_allocated", Gauge, [], "ENIs in the store, all cards.";
    TOTAL_IPS: "awscni_total_ip_addresses", Gauge, [], "Addresses in the store, all cards.";
    ASSIGNED_IPS: "awscni_assigned_ip_addresses", Gauge, [], "Addresses held by pods, all cards.";
    TOTAL_PREFIXES: "awscni_total_ipv4_prefixes", Gauge, [], "IPv4 prefixes in the store, all cards.";
    ASSIGNED_PER_CIDR: "awscni_assigned_ip_per_cidr", Gauge, ["cidr"], "Addresses held by pods, by CIDR.";
    ASSIGNED_PER_ENI: "awscni_assigned_ip_per_eni", Gauge, ["eni"], "Addresses held by pods, by ENI.";
    NO_AVAILABLE_IPS: "awscni_no_available_ip_addresses", Counter, [], "Assignments that found a store exhausted.";
    FORCE_REMOVED_ENIS: "awscni_force_removed_enis", Counter, [], "ENIs that vanished while pods were using them.";
    FORCE_REMOVED_IPS: "awscni_force_removed_ips", Counter, [], "Addresses that vanished while a pod was using them.";
    ADD_REQUESTS: "awscni_add_ip_req_count", Counter, [], "AddNetwork calls received.";
    DEL_REQUESTS: "awscni_del_ip_req_count", Counter, ["reason"], "DelNetwork calls received.";
    IPAMD_ERRORS: "awscni_ipamd_error_count", Counter, ["fn"], "Failures inside the daemon, by place.";
    POD_ENI_ERRORS: "awscni_pod_eni_error_count", Counter, ["fn"], "Failures while enabling security groups for pods and during node initialisation.";
    ACTIONS: "awscni_ipamd_action_inprogress", Gauge, ["fn"], "Long-running actions in progress.";
    RECONCILED: "awscni_reconcile_count", Counter, ["fn"], "Items handled by reconciliation.";
    API_LATENCY: "awscni_aws_api_latency_ms", Summary, ["api", "error", "status"], "Duration of EC2 and instance-metadata calls, milliseconds; waitForENIAndIPsAttached: from EC2's word that a new interface is attached until pods can use it.";
    API_ERRORS: "awscni_aws_api_error_count", Counter, ["api", "error"], "Calls that failed with an AWS API error. Never here: waitENIAttachedFailedToAssignIPs, for EC2's answer tells the addresses and IMDS is not waited for.";
    UTILS_ERRORS: "awscni_aws_utils_error_count", Counter, ["fn", "error"], "Failures while cleaning up after a failed operation.";
    EC2_REQUESTS: "awscni_ec2api_req_count", Counter, ["fn"], "EC2 API requests sent.";
    EC2_ERRORS: "awscni_ec2api_error_count", Counter, ["fn"], "EC2 API requests that failed.";
    STARTUP: "awscni_ipamd_startup_duration_seconds", DEFAULT, ["success", "with_api_server", "failure_reason"], "Process start to ready-to-serve.";
    NODE_INIT: "awscni_ipamd_node_initialization_duration_seconds", DEFAULT, ["success"], "Duration of node initialisation.";
    CONNMARK_BACKEND: "awscni_connmark_backend", Gauge, ["backend"], "The active packet-mark backend has 1.";
    CONNMARK_RECONCILED: "awscni_connmark_reconcile_total", Counter, ["result"], "Outcomes of applying the connection-mark rules.";

    DECISIONS: "reservoir_decisions_total", Counter, ["by", "outcome"], "Decisions of the policy.";
    DECISION_SECONDS: "reservoir_decision_seconds", MICROSECONDS, ["by"], "Time of one decision, all calls of the component together.";
    DECISION_FUEL: "reservoir_decision_fuel", FUEL, ["by"], "Instructions of one decision, all calls of the component together.";
    POLICY_FAILURES: "reservoir_policy_failures_total", Counter, ["reason"], "Calls of the component that gave no usable answer.";
    POLICY_REFUSED: "reservoir_policy_refused_actions_total", Counter, ["invariant"], "Actions that the host dropped or cut.";
    POLICY_LOADS: "reservoir_policy_loads_total", Counter, ["result"], "Loads of the policy directory.";
    POLICY_TAKEN_OVER: "reservoir_policy_taken_over", Gauge, [], "1 while the built-in policy answers because the custom one failed five times in a row, else 0.";
    POLICY_REFUSED_LOAD: "reservoir_policy_refused", Gauge, [], "1 while what lies in the policy directory is not in force because it was refused, else 0.";
    SHADOW_ANSWERS: "reservoir_shadow_answers_total", Counter, ["outcome"], "Answers of the shadow policy: same, different, failed; skipped ones were not asked for because it lags.";
    SHADOW_DIFFERENCES: "reservoir_shadow_differences_total", Counter, ["field"], "Answers of the shadow policy that differ, by the field in which they do.";
    SHADOW_LOADS: "reservoir_shadow_loads_total", Counter, ["result"], "Loads of the shadow policy's directory.";
    WAITING_PODS: "reservoir_waiting_pods", Gauge, [], "ADD calls that wait for an address.";
    COOLING_IPS: "reservoir_cooling_ip_addresses", Gauge, [], "Free addresses that may not be used yet.";
    EC2_IN_FLIGHT: "reservoir_ec2_calls_in_flight", Gauge, [], "Chains of calls to EC2 and IMDS that have not ended, with their pauses between two tries.";
    ADD_WAIT: "reservoir_add_wait_seconds", WAITS, ["result"], "How long ADD calls waited for an address on an empty pool.";
    CHECKPOINT_WRITES: "reservoir_checkpoint_writes_total", Counter, ["result"], "Writes of the checkpoint.";
    CHECKPOINT_SECONDS: "reservoir_checkpoint_write_seconds", MICROSECONDS, [], "Time of one write of the checkpoint.";
    HOST_REPAIRS: "reservoir_host_repairs_total", Counter, ["kind", "result"], "Things of the host's network that others had removed or changed, and that were put right (or could not be).";
    HOST_CHECKS: "reservoir_host_checks_total", Counter, ["cause"], "Comparisons of the host's network with what it must be.";
    SERIES_DROPPED: "reservoir_metric_series_dropped_total", Counter, [], "Series not made because their family was full.";

    PROCESS_CPU: "process_cpu_seconds_total", Counter, [], "User and system CPU time, seconds.";
    PROCESS_RSS: "process_resident_memory_bytes", Gauge, [], "Resident memory, bytes.";
    PROCESS_VIRTUAL: "process_virtual_memory_bytes", Gauge, [], "Virtual memory, bytes.";
    PROCESS_FDS: "process_open_fds", Gauge, [], "Open file descriptors.";
    PROCESS_MAX_FDS: "process_max_fds", Gauge, [], "Limit of open file descriptors.";
    PROCESS_THREADS: "process_threads", Gauge, [], "Threads.";
    PROCESS_START: "process_start_time_seconds", Gauge, [], "Start of the process, seconds since the epoch.";
}

/// The family of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Family> {
    ALL.iter().find(|f| f.name == name)
}
