//! Guarantees 2, 3 and 4 (DESIGN, section 3) over random histories: words that change, configurations that follow each other,
//! transitions that end, walks over the tables of flows, and flows that open and close in between. An oracle remembers where
//! each open flow lives; after every event each of them sends a packet, but for those that are silent over many events.

#[path = "guarantees_history/scene.rs"]
mod scene;
#[path = "guarantees_history/world.rs"]
mod world;

use lb_common::abi::flow::OPENING_WAYS;
use lb_common::datapath::flow::FlowTable;
use proptest::prelude::*;
use scene::Change;
use world::{Word, World};

/// Something that happens to the data plane.
#[derive(Clone, Debug)]
enum Event {
    /// A word of a backend, domain or pool changes.
    Word(prop::sample::Index, Word),
    /// The configuration changes.
    Config(Vec<Change>),
    /// The transition ends.
    TransitionEnds,
    /// The tables of flows are walked.
    Walk,
    /// Flows that were silent send a packet.
    Wake,
    /// A service starts that share of its flows at the first step of its plan.
    Spill(prop::sample::Index, u16),
    /// A service lets that share of the flows that a pool's first slot refuses go on at once, and believes health or not.
    Steer(prop::sample::Index, u8, bool),
    /// The daemon looks whether flags of spilling are still needed: not if nothing spills and a walk has begun since.
    Tidy,
    /// So many flows open.
    Open(u8),
    /// So many flows close.
    Close(u8),
    /// Seconds pass.
    Wait(u16),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (any::<prop::sample::Index>(), word()).prop_map(|(cell, word)| Event::Word(cell, word)),
        3 => prop::collection::vec(scene::change(), 1..4).prop_map(Event::Config),
        1 => Just(Event::TransitionEnds),
        2 => Just(Event::Walk),
        1 => Just(Event::Wake),
        1 => (any::<prop::sample::Index>(), prop_oneof![Just(u16::MAX), any::<u16>()])
            .prop_map(|(service, share)| Event::Spill(service, share)),
        1 => (any::<prop::sample::Index>(), prop_oneof![Just(0), Just(255), any::<u8>()], any::<bool>())
            .prop_map(|(service, leaves, panic)| Event::Steer(service, leaves, panic)),
        1 => Just(Event::Tidy),
        3 => (1_u8..40).prop_map(Event::Open),
        1 => (1_u8..40).prop_map(Event::Close),
        1 => (1_u16..200).prop_map(Event::Wait),
    ]
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        2 => Just(Word { new: 0, old: 0 }),
        2 => Just(Word { new: 0, old: 255 }),
        2 => (1_u8..255).prop_map(|new| Word { new, old: 255 }),
        4 => Just(Word { new: 255, old: 255 }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(new, old)| Word { new, old }),
    ]
}

fn apply(world: &mut World, event: &Event) -> Result<(), String> {
    match event {
        Event::Word(cell, word) => world.set_word(*cell, *word),
        Event::Config(changes) => world.reconfigure(changes)?,
        Event::TransitionEnds => world.end_transition()?,
        Event::Walk => world.walk(),
        Event::Wake => world.wake()?,
        Event::Spill(service, share) => world.spill(*service, *share),
        Event::Steer(service, leaves, panic) => world.steer(*service, *leaves, *panic),
        Event::Tidy => world.tidy(),
        Event::Open(count) => world.open(*count)?,
        Event::Close(count) => world.close(*count)?,
        Event::Wait(seconds) => world.wait(*seconds),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    /// Guarantees 2 and 4: an established flow changes its backend only if that backend, or its way there, refuses it. And
    /// guarantee 3: where new flows go does not depend on the history.
    #[test]
    fn established_flows_stay_over_any_history(
        scene in scene::scene(),
        events in prop::collection::vec(event(), 1..24),
    ) {
        let mut world = World::new(scene);
        world.open(60).map_err(TestCaseError::fail)?;
        for (number, event) in events.iter().enumerate() {
            let told = |error: String| TestCaseError::fail(format!("event {number}, {event:?}: {error}"));
            apply(&mut world, event).map_err(told)?;
            world.check_established().map_err(told)?;
            world.check_new().map_err(told)?;
        }
        world.wake().map_err(TestCaseError::fail)?;
    }

    /// Guarantee 9: however small the tables of flows are, they never hold more than they may.
    #[test]
    fn the_tables_of_flows_are_bounded(
        scene in scene::scene(),
        events in prop::collection::vec(event(), 1..12),
        capacity in 0_usize..20,
    ) {
        let mut world = World::new(scene);
        for event in &events {
            world.limit(capacity, capacity / 2);
            let _ = apply(&mut world, event);
            let held = |table| world.tables().flows(table).len();
            prop_assert!(held(FlowTable::Flows) <= capacity);
            // Openings have room by the set, one at least.
            let openings = (capacity / 2).next_multiple_of(OPENING_WAYS).max(OPENING_WAYS);
            prop_assert!(held(FlowTable::Openings) <= openings);
        }
    }
}
