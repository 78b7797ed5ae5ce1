//! EC2's way to say no: a code, a message, an HTTP status (spec 03 §16.4).

/// A refused call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    /// HTTP status of the Query protocol.
    pub status: u16,
}

impl Refusal {
    /// With the status that belongs to the code.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        let status = match code {
            "UnauthorizedOperation" => 403,
            "DryRunOperation" => 412,
            "InternalError" | "InternalFailure" => 500,
            "RequestLimitExceeded" | "ServiceUnavailable" | "Unavailable" => 503,
            _ => 400,
        };
        Self { code: code.to_owned(), message: message.into(), status }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterValue", message)
    }

    pub(crate) fn no_interface(id: &str) -> Self {
        if id.starts_with("eni-") {
            Self::new("InvalidNetworkInterfaceID.NotFound", format!("The networkInterface ID '{id}' does not exist"))
        } else {
            Self::new("InvalidNetworkInterfaceID.Malformed", format!("Invalid id: \"{id}\" (expecting \"eni-...\")"))
        }
    }

    /// The form that names all of them, which a client cannot take one id from.
    pub(crate) fn no_interfaces(ids: &[&str]) -> Self {
        let message = format!("The networkInterface IDs '{}' do not exist", ids.join(", "));
        Self::new("InvalidNetworkInterfaceID.NotFound", message)
    }

    pub(crate) fn no_instance(id: &str) -> Self {
        Self::new("InvalidInstanceID.NotFound", format!("The instance ID '{id}' does not exist"))
    }

    pub(crate) fn no_subnet(id: &str) -> Self {
        Self::new("InvalidSubnetID.NotFound", format!("The subnet ID '{id}' does not exist"))
    }

    pub(crate) fn no_group(id: &str) -> Self {
        Self::new("InvalidGroup.NotFound", format!("The security group '{id}' does not exist"))
    }

    pub(crate) fn no_attachment(id: &str) -> Self {
        Self::new("InvalidAttachmentID.NotFound", format!("The attachment ID '{id}' does not exist"))
    }
}
