//! Carries plans out in the kernel, and reads its state.

use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::error::Error;
use crate::mac::MacAddr;
use crate::netlink::Socket;
use crate::netlink::message::{RTM_NEWLINK, Request};
use crate::netlink::reply::{self, AddressInfo, LinkInfo, NeighbourInfo, RouteInfo};
use crate::netns::Netns;
use crate::plan::{Executor, Op, Side, Step, VethPair};
use crate::rule::{Family, Rule};
use crate::{sysctl, table};

/// How often it is looked whether addresses are still tentative (spec 04 §4.2 step 10).
const DAD_POLL: Duration = Duration::from_millis(50);

/// Sockets into the host's namespace and, for pod wiring, into the pod's.
///
/// The host's is the namespace of the thread that opens it; plans with sysctls must run on a thread of that namespace.
#[derive(Debug)]
pub struct Kernel {
    host: Socket,
    container: Option<Container>,
    links: Vec<KnownLink>,
}

#[derive(Debug)]
struct Container {
    socket: Socket,
    /// The pod's namespace.
    netns: Netns,
    /// The host's: where veth peers are born.
    home: Netns,
}

#[derive(Debug)]
struct KnownLink {
    side: Side,
    name: String,
    index: u32,
    mac: Option<MacAddr>,
}

impl Kernel {
    /// Works on the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel's refusal of a socket.
    pub fn host() -> Result<Self, Error> {
        let host = Socket::open().map_err(|e| socket_error("opening a netlink socket", &e))?;
        Ok(Self { host, container: None, links: Vec::new() })
    }

    /// Lets plans reach into a pod's namespace, too.
    ///
    /// # Errors
    /// When the host's namespace cannot be opened or the pod's not entered.
    pub fn enter(&mut self, pod: &Netns) -> Result<(), Error> {
        let home = Netns::current()?;
        let socket = pod.attempt(Socket::open)?;
        let netns = pod.try_clone().map_err(|e| socket_error("keeping the pod's namespace", &e))?;
        self.container = Some(Container { socket, netns, home });
        Ok(())
    }

    /// The interface of that name.
    ///
    /// # Errors
    /// [`Error::LinkNotFound`], or what the kernel says.
    pub fn link(&mut self, side: Side, name: &str) -> Result<LinkInfo, Error> {
        match self.get_link(side, name) {
            Ok(link) => Ok(link),
            Err(Errno::NODEV) => Err(Error::LinkNotFound { key: format!("name {name}") }),
            Err(errno) => Err(Error::from_kernel(format!("link show {name}"), errno)),
        }
    }

    /// All interfaces.
    ///
    /// # Errors
    /// The kernel's.
    pub fn links(&mut self, side: Side) -> Result<Vec<LinkInfo>, Error> {
        self.dump(side, &Request::all_links(), "link show", reply::link)
    }

    /// The addresses of one interface.
    ///
    /// # Errors
    /// The kernel's.
    pub fn addresses(&mut self, side: Side, family: Family, index: u32) -> Result<Vec<AddressInfo>, Error> {
        let mut all = self.dump(side, &Request::all_addresses(family, index), "address show", reply::address)?;
        all.retain(|a| a.index == index);
        Ok(all)
    }

    /// The routes of one table, or of one interface in it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn routes(
        &mut self,
        side: Side,
        family: Family,
        table: u32,
        index: Option<u32>,
    ) -> Result<Vec<RouteInfo>, Error> {
        let mut all = match self.dump(side, &Request::all_routes(family, table, index), "route show", reply::route) {
            // A table comes into being with its first route.
            Err(error) if error.errno() == Some(Errno::NOENT) => Vec::new(),
            other => other?,
        };
        all.retain(|r| r.table == table && (index.is_none() || r.device_index == index));
        Ok(all)
    }

    /// The routes of all tables.
    ///
    /// # Errors
    /// The kernel's.
    pub fn all_routes(&mut self, side: Side, family: Family) -> Result<Vec<RouteInfo>, Error> {
        self.dump(side, &Request::all_routes(family, table::UNSPECIFIED, None), "route show", reply::route)
    }

    /// All rules of a family, in the order the kernel tries them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn rules(&mut self, side: Side, family: Family) -> Result<Vec<Rule>, Error> {
        self.dump(side, &Request::all_rules(family), "rule show", reply::rule)
    }

    /// All neighbour entries of a family.
    ///
    /// # Errors
    /// The kernel's.
    pub fn neighbours(&mut self, side: Side, family: Family) -> Result<Vec<NeighbourInfo>, Error> {
        self.dump(side, &Request::all_neighbours(family), "neighbour show", reply::neighbour)
    }

    /// Index and MAC of an interface that a plan made or used.
    #[must_use]
    pub(crate) fn known(&self, side: Side, name: &str) -> Option<(u32, Option<MacAddr>)> {
        self.links.iter().find(|l| l.side == side && l.name == name).map(|l| (l.index, l.mac))
    }

    fn dump<T>(
        &mut self,
        side: Side,
        request: &Request,
        what: &str,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let objects = self.socket(side).and_then(|socket| socket.dump(request));
        let objects = objects.map_err(|errno| Error::from_kernel(what.to_owned(), errno))?;
        Ok(objects.iter().filter_map(|(_, payload)| parse(payload)).collect())
    }

    fn socket(&mut self, side: Side) -> Result<&mut Socket, Errno> {
        match side {
            Side::Host => Ok(&mut self.host),
            Side::Container => self.container.as_mut().map(|c| &mut c.socket).ok_or(Errno::NOTCONN),
        }
    }

    fn get_link(&mut self, side: Side, name: &str) -> Result<LinkInfo, Errno> {
        let objects = self.socket(side)?.call(Request::get_link(name))?;
        let link = objects.iter().find(|(kind, _)| *kind == RTM_NEWLINK).and_then(|(_, payload)| reply::link(payload));
        let link = link.ok_or(Errno::NODEV)?;
        self.remember(side, &link);
        Ok(link)
    }

    fn remember(&mut self, side: Side, link: &LinkInfo) {
        self.forget(side, &link.name);
        self.links.push(KnownLink { side, name: link.name.clone(), index: link.index, mac: link.mac });
    }

    fn forget(&mut self, side: Side, name: &str) {
        self.links.retain(|l| l.side != side || l.name != name);
    }

    fn index(&mut self, side: Side, name: &str) -> Result<u32, Errno> {
        match self.known(side, name) {
            Some((index, _)) => Ok(index),
            None => Ok(self.get_link(side, name)?.index),
        }
    }

    /// Makes the pair and asks at once for what was made: one message in, both indices out.
    fn add_veth(&mut self, pair: &VethPair) -> Result<(), Errno> {
        let Some(Container { socket, home, .. }) = &mut self.container else { return Err(Errno::NOTCONN) };
        let mut outcomes =
            socket.batch(&[Request::add_veth(pair, std::os::fd::AsFd::as_fd(home)), Request::get_link(&pair.name)])?;
        let found = outcomes.pop().unwrap_or(Err(Errno::IO));
        outcomes.pop().unwrap_or(Err(Errno::IO))?;
        let found =
            found.and_then(|objects| objects.iter().find_map(|(_, payload)| reply::link(payload)).ok_or(Errno::NODEV));
        // To the caller it failed: then it must not be there.
        let link = match found {
            Ok(link) => link,
            Err(errno) => {
                self.host.call(Request::delete_link(&pair.peer))?;
                return Err(errno);
            }
        };
        self.remember(Side::Container, &link);
        self.forget(Side::Host, &pair.peer);
        if let Some(index) = link.peer_index {
            let (name, mac) = (pair.peer.clone(), Some(pair.peer_mac));
            self.links.push(KnownLink { side: Side::Host, name, index, mac });
        }
        Ok(())
    }

    fn request(&mut self, step: &Step) -> Result<Request, Errno> {
        let side = step.side;
        Ok(match &step.op {
            Op::LinkDel { device } => {
                self.forget(side, device);
                Request::delete_link(device)
            }
            Op::LinkAddVlan(vlan) => {
                self.forget(side, &vlan.name);
                Request::add_vlan(vlan)
            }
            Op::LinkUp { device } => Request::set_link_up(device),
            Op::LinkMtu { device, mtu } => Request::set_link_mtu(device, *mtu),
            Op::AddressAdd { device, address, scope, broadcast } => {
                Request::add_address(self.index(side, device)?, *address, *scope, *broadcast)
            }
            Op::AddressDel { device, address } => Request::delete_address(self.index(side, device)?, *address),
            Op::RouteAdd(route) => Request::add_route(route, self.device_of(side, route.device.as_deref())?),
            Op::RouteReplace(route) => Request::replace_route(route, self.device_of(side, route.device.as_deref())?),
            Op::RouteDel(route) => Request::delete_route(route, self.device_of(side, route.device.as_deref())?),
            Op::RuleAdd(rule) => Request::add_rule(rule),
            Op::RuleDel(rule) => Request::delete_rule(rule),
            Op::NeighbourAdd { device, address, mac } => {
                Request::add_neighbour(self.index(side, device)?, *address, *mac)
            }
            // Handled one by one, never part of a message.
            Op::LinkAddVeth(_) | Op::LinkRename { .. } | Op::Sysctl { .. } | Op::WaitDad { .. } => {
                return Err(Errno::INVAL);
            }
        })
    }

    fn device_of(&mut self, side: Side, device: Option<&str>) -> Result<Option<u32>, Errno> {
        device.map(|name| self.index(side, name)).transpose()
    }

    fn single(&mut self, step: &Step) -> Option<Result<(), Errno>> {
        match (&step.op, step.side) {
            (Op::LinkAddVeth(pair), _) => Some(self.add_veth(pair)),
            (Op::Sysctl { key, value }, Side::Host) => Some(sysctl::set(key, value)),
            (Op::Sysctl { key, value }, Side::Container) => Some(self.set_in_pod(key, value)),
            (Op::LinkRename { device, name }, side) => Some(self.rename(side, device, name)),
            (Op::WaitDad { device, timeout }, side) => Some(self.wait_dad(side, device, *timeout)),
            _ => None,
        }
    }

    fn rename(&mut self, side: Side, device: &str, name: &str) -> Result<(), Errno> {
        let index = self.index(side, device)?;
        self.forget(side, device);
        self.forget(side, name);
        let socket = self.socket(side)?;
        match socket.call(Request::rename_link(index, name)) {
            Err(Errno::BUSY) => {
                let steps = [
                    Request::set_link_down(device),
                    Request::rename_link(index, name),
                    // Whichever name it has now, it is not to stay down.
                    Request::set_link_up(name),
                ];
                let mut outcomes = socket.batch(&steps)?;
                let renamed = outcomes.remove(1).map(drop);
                if renamed.is_err() {
                    socket.call(Request::set_link_up(device))?;
                }
                renamed
            }
            other => other.map(drop),
        }
    }

    /// `/proc/sys/net` shows the namespace of the thread that opens a file in it.
    fn set_in_pod(&self, key: &str, value: &str) -> Result<(), Errno> {
        let container = self.container.as_ref().ok_or(Errno::NOTCONN)?;
        let entered = container.netns.run(|| sysctl::set(key, value));
        entered.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?
    }

    fn wait_dad(&mut self, side: Side, device: &str, timeout: Duration) -> Result<(), Errno> {
        let deadline = Instant::now() + timeout;
        let index = self.index(side, device)?;
        loop {
            let addresses = self.addresses(side, Family::V6, index).map_err(|e| e.errno().unwrap_or(Errno::IO))?;
            if !addresses.iter().any(|a| a.tentative) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Errno::TIMEDOUT);
            }
            thread::sleep(DAD_POLL);
        }
    }
}

impl Executor for Kernel {
    fn execute(&mut self, steps: &[Step]) -> Vec<Result<(), Errno>> {
        if let [step] = steps
            && let Some(outcome) = self.single(step)
        {
            return vec![outcome];
        }
        let requests: Vec<_> = steps.iter().map(|step| self.request(step)).collect();
        let ready: Vec<Request> = requests.iter().filter_map(|r| r.as_ref().ok().cloned()).collect();
        let sent = match steps.first() {
            Some(step) => self.socket(step.side).and_then(|socket| socket.batch(&ready)),
            None => Ok(Vec::new()),
        };
        let mut outcomes = match sent {
            Ok(outcomes) => outcomes.into_iter(),
            Err(errno) => return vec![Err(errno); steps.len()],
        };
        requests
            .into_iter()
            .map(|request| request.and_then(|_| outcomes.next().unwrap_or(Err(Errno::IO)).map(drop)))
            .collect()
    }

    fn sleep(&mut self, duration: Duration) {
        thread::sleep(duration);
    }
}

fn socket_error(what: &str, error: &std::io::Error) -> Error {
    Error::from_kernel(what.to_owned(), Errno::from_io_error(error).unwrap_or(Errno::IO))
}
