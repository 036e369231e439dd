//! Answers which webhooks an event is owed to: tenant → event type → webhooks. Pure but for its lock and for `load`,
//! which reads the database.
//!
//! Read on every publish, and changed one webhook at a time. A publish costs as much as it matches, not as much as the
//! tenant has.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use crate::domain::id::{TenantNum, WebhookNum};
use crate::store::StoreError;
use crate::store::webhooks::Route;

use super::db::EngineDb;

#[derive(Debug, Default)]
pub struct RouteTable {
    tenants: RwLock<HashMap<TenantNum, TenantRoutes>>,
}

#[derive(Debug, Default)]
struct TenantRoutes {
    to_all: Subscribers,
    exact: HashMap<String, Subscribers>,
    /// `call.*` under `call.`
    prefixes: HashMap<String, Subscribers>,
    /// The subscriptions of each webhook.
    webhooks: HashMap<WebhookNum, Box<[String]>>,
    ordered: BTreeSet<WebhookNum>,
}

/// The webhooks of one subscription.
#[derive(Debug, Default)]
struct Subscribers {
    /// Ascending.
    nums: Vec<WebhookNum>,
    /// The same list, shared with publishes: the first publish after a change makes it, the others copy nothing.
    list: OnceLock<Arc<[WebhookNum]>>,
}

impl RouteTable {
    pub(super) async fn load(db: &dyn EngineDb) -> Result<Self, StoreError> {
        let table = Self::default();
        let mut after = WebhookNum(0);
        loop {
            let routes = db.routes(after).await?;
            let Some(last) = routes.last() else { return Ok(table) };
            after = last.num;
            routes.into_iter().for_each(|route| table.set(route));
        }
    }

    /// Replaces all routes with those of another table. Answers the webhooks that are gone, ascending.
    pub(super) fn replace(&self, fresh: Self) -> Vec<WebhookNum> {
        let mut tenants = self.tenants.write();
        let before = std::mem::replace(&mut *tenants, fresh.tenants.into_inner());
        let is_gone = |tenant: &TenantNum, num: &WebhookNum| {
            tenants.get(tenant).is_none_or(|routes| !routes.webhooks.contains_key(num))
        };
        let gone = |(tenant, routes): (TenantNum, TenantRoutes)| {
            routes.webhooks.into_keys().filter(|num| is_gone(&tenant, num)).collect::<Vec<_>>()
        };
        sorted(before.into_iter().flat_map(gone))
    }

    /// Active webhooks subscribed to this type, ascending.
    #[must_use]
    pub fn matching(&self, tenant: TenantNum, kind: &str) -> Arc<[WebhookNum]> {
        let tenants = self.tenants.read();
        tenants
            .get(&tenant)
            .map_or_else(|| Arc::new([]) as Arc<[_]>, |routes| routes.matching(kind, Some(&routes.to_all)))
    }

    /// Like [`Self::matching`], without webhooks that are subscribed to everything.
    #[must_use]
    pub fn matching_by_name(&self, tenant: TenantNum, kind: &str) -> Arc<[WebhookNum]> {
        let tenants = self.tenants.read();
        tenants.get(&tenant).map_or_else(|| Arc::new([]) as Arc<[_]>, |routes| routes.matching(kind, None))
    }

    /// Whether any of these webhooks, in ascending order, is ordered.
    #[must_use]
    pub fn is_any_ordered(&self, tenant: TenantNum, webhooks: &[WebhookNum]) -> bool {
        let tenants = self.tenants.read();
        let Some(ordered) = tenants.get(&tenant).map(|routes| &routes.ordered) else { return false };
        if ordered.len() < webhooks.len() {
            ordered.iter().any(|num| webhooks.binary_search(num).is_ok())
        } else {
            webhooks.iter().any(|num| ordered.contains(num))
        }
    }

    /// Adds the webhook or replaces its former entry; an inactive one matches nothing.
    pub fn set(&self, route: Route) {
        let mut tenants = self.tenants.write();
        let routes = tenants.entry(route.tenant).or_default();
        routes.remove(route.num);
        let subscriptions = if route.is_active { route.events } else { Vec::new() };
        routes.insert(route.num, subscriptions);
        if route.is_ordered {
            routes.ordered.insert(route.num);
        }
    }

    /// The webhook stays known but matches nothing.
    pub fn deactivate(&self, tenant: TenantNum, num: WebhookNum) {
        self.set(Route { num, tenant, events: Vec::new(), is_active: false, is_ordered: false });
    }

    /// Removes the webhook; answers whether it was there.
    pub fn remove(&self, tenant: TenantNum, num: WebhookNum) -> bool {
        let mut tenants = self.tenants.write();
        let Some(routes) = tenants.get_mut(&tenant) else { return false };
        let was_there = routes.remove(num);
        if routes.webhooks.is_empty() {
            tenants.remove(&tenant);
        }
        was_there
    }

    /// Every webhook of the tenant, ascending.
    #[must_use]
    pub fn of_tenant(&self, tenant: TenantNum) -> Vec<WebhookNum> {
        let tenants = self.tenants.read();
        sorted(tenants.get(&tenant).into_iter().flat_map(|routes| routes.webhooks.keys().copied()))
    }

    /// Forgets the tenant; answers the webhooks that it had, ascending.
    pub fn remove_tenant(&self, tenant: TenantNum) -> Vec<WebhookNum> {
        let gone = self.tenants.write().remove(&tenant);
        sorted(gone.into_iter().flat_map(|routes| routes.webhooks.into_keys()))
    }
}

fn sorted(nums: impl Iterator<Item = WebhookNum>) -> Vec<WebhookNum> {
    let mut nums: Vec<WebhookNum> = nums.collect();
    nums.sort_unstable();
    nums
}

impl TenantRoutes {
    fn matching(&self, kind: &str, besides: Option<&Subscribers>) -> Arc<[WebhookNum]> {
        let prefixes = kind.match_indices('.').filter_map(|(dot, _)| self.prefixes.get(&kind[..=dot]));
        let lists: Vec<&Subscribers> =
            self.exact.get(kind).into_iter().chain(prefixes).chain(besides).filter(|l| !l.nums.is_empty()).collect();
        match lists.as_slice() {
            [] => Arc::new([]),
            [only] => only.share(),
            several => {
                let mut all: Vec<WebhookNum> = several.iter().flat_map(|list| list.nums.iter().copied()).collect();
                all.sort_unstable();
                all.dedup();
                all.into()
            }
        }
    }

    fn subscribe(&mut self, num: WebhookNum, subscription: &str) {
        let list = match subscription.strip_suffix('*') {
            Some("") => &mut self.to_all,
            Some(prefix) => self.prefixes.entry(prefix.to_owned()).or_default(),
            None => self.exact.entry(subscription.to_owned()).or_default(),
        };
        list.insert(num);
    }

    /// Removes the webhook from a list, and the list when it is empty.
    fn unsubscribe(&mut self, num: WebhookNum, subscription: &str) {
        let (lists, name) = match subscription.strip_suffix('*') {
            Some("") => return self.to_all.remove(num),
            Some(prefix) => (&mut self.prefixes, prefix),
            None => (&mut self.exact, subscription),
        };
        let Some(list) = lists.get_mut(name) else { return };
        list.remove(num);
        if list.nums.is_empty() {
            lists.remove(name);
        }
    }

    fn insert(&mut self, num: WebhookNum, subscriptions: Vec<String>) {
        for subscription in &subscriptions {
            self.subscribe(num, subscription);
        }
        self.webhooks.insert(num, subscriptions.into());
    }

    fn remove(&mut self, num: WebhookNum) -> bool {
        let Some(subscriptions) = self.webhooks.remove(&num) else { return false };
        self.ordered.remove(&num);
        for subscription in subscriptions {
            self.unsubscribe(num, &subscription);
        }
        true
    }
}

impl Subscribers {
    fn share(&self) -> Arc<[WebhookNum]> {
        self.list.get_or_init(|| self.nums.as_slice().into()).clone()
    }

    fn insert(&mut self, num: WebhookNum) {
        if let Err(place) = self.nums.binary_search(&num) {
            self.nums.insert(place, num);
            self.list.take();
        }
    }

    fn remove(&mut self, num: WebhookNum) {
        if let Ok(place) = self.nums.binary_search(&num) {
            self.nums.remove(place);
            self.list.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const TENANT: TenantNum = TenantNum(1);

    fn route(num: i64, events: &[&str], is_active: bool) -> Route {
        let events = events.iter().map(|&event| event.to_owned()).collect();
        Route { num: WebhookNum(num), tenant: TENANT, events, is_active, is_ordered: false }
    }

    fn matching(table: &RouteTable, kind: &str) -> Vec<i64> {
        table.matching(TENANT, kind).iter().map(|num| num.0).collect()
    }

    #[test]
    fn exact_prefix_and_all_match_once_each() {
        let table = RouteTable::default();
        table.set(route(3, &["call.recording.available", "call.*", "*"], true));
        table.set(route(1, &["call.recording.*"], true));
        table.set(route(2, &["call"], true));
        assert_eq!(matching(&table, "call.recording.available"), [1, 3]);
        assert_eq!(matching(&table, "call.ringing"), [3]);
        assert_eq!(matching(&table, "call"), [2, 3]);
        assert_eq!(matching(&table, "caller.x"), [3]);
        assert!(table.matching(TenantNum(2), "call.ringing").is_empty());
        table.set(route(4, &["*"], true));
        assert_eq!(table.matching_by_name(TENANT, "call").as_ref(), [WebhookNum(2)]);
    }

    #[test]
    fn a_changed_webhook_matches_only_what_it_says_now() {
        let table = RouteTable::default();
        table.set(route(1, &["a"], true));
        table.set(route(1, &["b"], true));
        assert_eq!((matching(&table, "a"), matching(&table, "b")), (vec![], vec![1]));
        table.set(route(1, &["b"], false));
        assert!(matching(&table, "b").is_empty());
        assert_eq!(table.remove_tenant(TENANT), [WebhookNum(1)]);
        table.set(route(1, &["b"], true));
        assert!(table.remove(TENANT, WebhookNum(1)) && !table.remove(TENANT, WebhookNum(1)));
        assert!(table.remove_tenant(TENANT).is_empty());
    }

    #[test]
    fn who_is_ordered_is_known_for_as_long_as_it_is() {
        let (table, ordered) = (RouteTable::default(), Route { is_ordered: true, ..route(2, &["a"], true) });
        table.set(route(1, &["a"], true));
        table.set(ordered.clone());
        let is_any_ordered = |nums: &[i64]| {
            let nums: Vec<WebhookNum> = nums.iter().copied().map(WebhookNum).collect();
            table.is_any_ordered(TENANT, &nums)
        };
        assert!(is_any_ordered(&[1, 2, 3]) && !is_any_ordered(&[1, 3]) && !is_any_ordered(&[]));
        assert!(!table.is_any_ordered(TenantNum(2), &[WebhookNum(2)]));
        table.set(route(2, &["a"], true));
        assert!(!is_any_ordered(&[1, 2, 3]));
        table.set(ordered);
        assert!(table.remove(TENANT, WebhookNum(2)) && !is_any_ordered(&[2]));
    }

    #[test]
    fn another_table_is_taken_over_and_who_is_not_in_it_is_gone() {
        let (table, fresh) = (RouteTable::default(), RouteTable::default());
        table.set(route(1, &["a"], true));
        table.set(route(2, &["a"], true));
        table.set(Route { tenant: TenantNum(2), ..route(3, &["a"], true) });
        fresh.set(route(2, &["b"], true));
        fresh.set(route(4, &["a"], true));
        let gone = table.replace(fresh);
        assert_eq!(gone, [WebhookNum(1), WebhookNum(3)]);
        assert_eq!((matching(&table, "a"), matching(&table, "b")), (vec![4], vec![2]));
        assert!(table.of_tenant(TenantNum(2)).is_empty());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set(Route),
        Deactivate(TenantNum, WebhookNum),
        Remove(TenantNum, WebhookNum),
        RemoveTenant(TenantNum),
    }

    fn step() -> impl Strategy<Value = Step> {
        let subscription = prop::sample::select(vec!["*", "a", "a.b", "a.*", "a.b.*", "c", "c.*"]);
        let webhook = (1..3_i64)
            .prop_map(TenantNum)
            .prop_flat_map(|tenant| (Just(tenant), (0..4_i64).prop_map(move |num| WebhookNum(tenant.0 * 10 + num))));
        let route = (webhook.clone(), prop::collection::vec(subscription, 0..4), any::<bool>(), any::<bool>());
        let route = route.prop_map(|((tenant, num), events, is_active, is_ordered)| {
            let events = events.into_iter().map(str::to_owned).collect();
            Step::Set(Route { num, tenant, events, is_active, is_ordered })
        });
        prop_oneof![
            6 => route,
            1 => webhook.clone().prop_map(|(tenant, num)| Step::Deactivate(tenant, num)),
            2 => webhook.prop_map(|(tenant, num)| Step::Remove(tenant, num)),
            1 => (1..3_i64).prop_map(|tenant| Step::RemoveTenant(TenantNum(tenant))),
        ]
    }

    /// Applies the step to the table, and notes the last route of each webhook.
    fn take(step: Step, table: &RouteTable, told: &mut BTreeMap<WebhookNum, Route>) {
        match step {
            Step::Set(route) => {
                table.set(route.clone());
                told.insert(route.num, route);
            }
            Step::Deactivate(tenant, num) => {
                table.deactivate(tenant, num);
                told.insert(num, Route { num, tenant, events: Vec::new(), is_active: false, is_ordered: false });
            }
            Step::Remove(tenant, num) => assert_eq!(table.remove(tenant, num), told.remove(&num).is_some()),
            Step::RemoveTenant(tenant) => {
                table.remove_tenant(tenant);
                told.retain(|_, route| route.tenant != tenant);
            }
        }
    }

    type Lists = BTreeMap<String, Vec<WebhookNum>>;

    /// All contents of a table, except the copies made for publishes.
    fn contents(table: &RouteTable) -> BTreeMap<TenantNum, (Lists, Lists, Vec<WebhookNum>)> {
        let lists = |lists: &HashMap<String, Subscribers>| {
            lists.iter().map(|(name, list)| (name.clone(), list.nums.clone())).collect::<Lists>()
        };
        let of_tenant = |(tenant, routes): (&TenantNum, &TenantRoutes)| {
            let TenantRoutes { to_all, exact, prefixes, webhooks, ordered } = routes;
            let mut exact = lists(exact);
            exact.extend(webhooks.iter().map(|(num, names)| (format!("of {}: {names:?}", num.0), vec![*num])));
            exact.insert("ordered".to_owned(), ordered.iter().copied().collect());
            (*tenant, (exact, lists(prefixes), to_all.nums.clone()))
        };
        table.tenants.read().iter().map(of_tenant).collect()
    }

    proptest! {
        #[test]
        fn after_any_changes_a_table_holds_what_one_built_from_scratch_would(steps in prop::collection::vec(step(), 0..60)) {
            let (table, mut told) = (RouteTable::default(), BTreeMap::new());
            for step in steps {
                take(step, &table, &mut told);
            }
            let fresh = RouteTable::default();
            told.into_values().for_each(|route| fresh.set(route));
            prop_assert_eq!(contents(&table), contents(&fresh));
            let tenants = table.tenants.read();
            let is_empty = |list: &Subscribers| list.nums.is_empty();
            prop_assert!(!tenants.values().flat_map(|routes| routes.exact.values().chain(routes.prefixes.values())).any(is_empty));
        }
    }
}
