//! [`AwsCloud`]: which request goes where.

use std::sync::Arc;

use reservoir_core::cloud::{Answer, CloudError, Instance, Request};

use crate::config::{CloudConfig, ConnectError};
use crate::ec2::Ec2;
use crate::imds::{Imds, Metadata};
use crate::{BoxFuture, Cloud};

/// EC2 through its SDK, and the metadata service.
#[derive(Debug)]
pub struct AwsCloud {
    metadata: Metadata,
    ec2: Ec2,
    instance: Instance,
}

impl AwsCloud {
    /// Reads who we are (spec 03 §4) and makes the EC2 client for the region found there. No EC2 call and no
    /// credentials are needed for it.
    pub async fn connect(config: CloudConfig) -> Result<(Self, Instance), ConnectError> {
        let imds = Arc::new(Imds::new(&config.imds)?);
        let metadata = Metadata::new(Arc::clone(&imds));
        let instance = metadata.instance().await.map_err(ConnectError::Metadata)?;
        let ec2 = Ec2::new(&config, &instance.region, imds).await?;
        Ok((Self { metadata, ec2, instance: instance.clone() }, instance))
    }

    async fn answer(&self, request: Request) -> Result<Answer, CloudError> {
        match request {
            // It never changes for the life of the process.
            Request::Instance => Ok(Answer::Instance(self.instance.clone())),
            Request::AttachedInterfaces => {
                self.metadata.attached_interfaces(&self.instance.mac).await.map(Answer::Attached)
            }
            Request::PrimarySecurityGroups { mac } => {
                self.metadata.security_groups(&mac).await.map(Answer::SecurityGroups)
            }
            Request::VpcCidrs { mac, family } => self.metadata.vpc_cidrs(&mac, family).await.map(Answer::VpcCidrs),
            request => self.ec2.call(request).await,
        }
    }
}

impl Cloud for AwsCloud {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Answer, CloudError>> {
        Box::pin(self.answer(request))
    }
}
