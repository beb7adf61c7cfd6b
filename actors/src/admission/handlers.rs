//! What the AdmissionActor does with each message.

use actix::{Context, Handler, MessageResult};
use tokio::time::Instant;

use super::{
    AdmissionActor, Registration,
    messages::{
        AdmissionEvent, AdmissionQuestion, AdmissionReport, EvictionDone, EvictionOutcome, ExplainWait, ForeignMemory,
        HoldingChange, HoldingChanged, IdleAvailable, IdleFound, NotifyWhenReleased, Register, RequestStart,
        RequestWake, SetFootprint, Unregister, Withdraw, WithdrawWake,
    },
};
use crate::{boot::EvictedInstance, notice::EndGuard, warmth::Rung};

impl Handler<Register> for AdmissionActor {
    type Result = ();

    fn handle(&mut self, Register { function, events }: Register, _: &mut Context<Self>) {
        self.functions.insert(function, Registration { events, requested: 0, granted: 0 });
    }
}

impl Handler<Unregister> for AdmissionActor {
    type Result = ();

    fn handle(&mut self, Unregister { function }: Unregister, ctx: &mut Context<Self>) {
        self.functions.remove(&function);
        self.made_room.remove(&function);
        self.ledger.forget(function);
        let ledger = &self.ledger;
        self.eviction.forget(|instance| ledger.function_of(instance).is_none_or(|owner| owner == function));
        self.collect(function, Vec::new());
        self.advance(ctx);
    }
}

impl Handler<RequestStart> for AdmissionActor {
    type Result = ();

    fn handle(&mut self, RequestStart { function, serial, request }: RequestStart, ctx: &mut Context<Self>) {
        let Some(registration) = self.functions.get_mut(&function) else { return };
        // An update of a request whose permit is on its way: it must not be granted twice.
        if serial <= registration.granted {
            return;
        }
        if serial > registration.requested {
            registration.requested = serial;
            // Of a request that was withdrawn.
            self.made_room.remove(&function);
        }
        if let Err(reason) = self.ledger.request(function, request) {
            registration.granted = serial;
            registration.events.do_send(AdmissionEvent::Denied { serial, reason });
        }
        self.advance(ctx);
    }
}

impl Handler<Withdraw> for AdmissionActor {
    type Result = ();

    fn handle(&mut self, Withdraw { function }: Withdraw, ctx: &mut Context<Self>) {
        self.ledger.withdraw(function);
        self.advance(ctx);
    }
}

impl Handler<SetFootprint> for AdmissionActor {
    type Result = ();

    fn handle(&mut self, SetFootprint { instance, memory }: SetFootprint, ctx: &mut Context<Self>) {
        self.ledger.set_footprint(instance, memory);
        self.advance(ctx);
    }
}

impl Handler<RequestWake> for AdmissionActor {
    type Result = ();

    fn handle(&mut self, RequestWake(request): RequestWake, ctx: &mut Context<Self>) {
        self.ledger.request_wake(request);
        self.advance(ctx);
    }
}

impl Handler<WithdrawWake> for AdmissionActor {
    type Result = ();

    fn handle(&mut self, WithdrawWake { instance }: WithdrawWake, ctx: &mut Context<Self>) {
        self.ledger.withdraw_wake(instance);
        self.advance(ctx);
    }
}

impl Handler<ExplainWait> for AdmissionActor {
    type Result = ();

    fn handle(&mut self, ExplainWait { function }: ExplainWait, _: &mut Context<Self>) {
        let reason = self.ledger.wait_reason(function, Instant::now());
        self.send(function, AdmissionEvent::WaitExplained(reason));
    }
}

impl Handler<HoldingChanged> for AdmissionActor {
    type Result = ();

    fn handle(&mut self, HoldingChanged { instance, change }: HoldingChanged, ctx: &mut Context<Self>) {
        let now = Instant::now();
        match change {
            HoldingChange::Started => {
                self.ledger.set_started(instance, now);
                // Its function has perhaps not been asked yet during this shortage.
                self.eviction.note_idle_available();
            }
            HoldingChange::Stopping => self.ledger.set_stopping(instance, now),
            HoldingChange::Stuck => self.ledger.set_stuck(instance, now),
            HoldingChange::Released => self.ledger.release(instance, now),
        }
        self.advance(ctx);
        self.notify_if_released();
    }
}

impl Handler<IdleFound> for AdmissionActor {
    type Result = ();

    fn handle(&mut self, IdleFound { function, idle }: IdleFound, _: &mut Context<Self>) {
        self.collect(function, idle);
    }
}

impl Handler<IdleAvailable> for AdmissionActor {
    type Result = ();

    fn handle(&mut self, _: IdleAvailable, _: &mut Context<Self>) {
        self.eviction.note_idle_available();
        self.make_room();
    }
}

impl Handler<EvictionDone> for AdmissionActor {
    type Result = ();

    fn handle(&mut self, EvictionDone { instance, function, outcome }: EvictionDone, ctx: &mut Context<Self>) {
        let evicted_for = self.eviction.finish(instance);
        let to = match outcome {
            EvictionOutcome::Ending => {
                self.ledger.set_stopping(instance, Instant::now());
                Some(Rung::Ended)
            }
            EvictionOutcome::Pausing { footprint } => {
                self.ledger.set_pausing(instance, footprint);
                Some(Rung::Paused)
            }
            EvictionOutcome::Refused => None,
        };
        let waiting = evicted_for.filter(|waiting| self.is_waiting(*waiting));
        if let Some((waiting, to)) = waiting.zip(to) {
            self.note_evicted(waiting, EvictedInstance { function, instance, to });
        }
        self.advance(ctx);
    }
}

impl Handler<NotifyWhenReleased> for AdmissionActor {
    type Result = ();

    fn handle(&mut self, NotifyWhenReleased { listener }: NotifyWhenReleased, _: &mut Context<Self>) {
        self.listeners.push(listener);
        self.notify_if_released();
    }
}

impl Handler<ForeignMemory> for AdmissionActor {
    type Result = ();

    fn handle(&mut self, ForeignMemory(memory): ForeignMemory, ctx: &mut Context<Self>) {
        self.ledger.set_foreign(memory);
        self.advance(ctx);
    }
}

impl Handler<AdmissionQuestion> for AdmissionActor {
    type Result = MessageResult<AdmissionQuestion>;

    fn handle(&mut self, _: AdmissionQuestion, _: &mut Context<Self>) -> Self::Result {
        MessageResult(AdmissionReport {
            memory_taken: self.ledger.taken(),
            memory_free: self.ledger.free(),
            starting: self.ledger.starting(),
            starting_processes: self.ledger.starting_processes(),
            functions_waiting: self.ledger.waiting(),
        })
    }
}

impl Handler<EndGuard> for AdmissionActor {
    type Result = ();

    fn handle(&mut self, guard: EndGuard, _: &mut Context<Self>) {
        self.end_guards.push(guard);
    }
}

#[cfg(test)]
mod tests {
    use actix::{Message, System};
    use tokio::time::timeout;

    use super::super::HostLimits;
    use crate::notice::ended;

    use super::*;

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Panic;

    impl Handler<Panic> for AdmissionActor {
        type Result = ();

        fn handle(&mut self, _: Panic, _: &mut Context<Self>) {
            panic!("on purpose");
        }
    }

    #[test]
    fn end_by_panic_is_noticed() {
        System::new().block_on(async {
            let admission = AdmissionActor::launch(HostLimits { memory: 1, process_starts: 1, starts: 1 });
            let mut ended = std::pin::pin!(ended(&admission));
            admission.send(AdmissionQuestion).await.unwrap();
            assert!(futures::poll!(&mut ended).is_pending());
            admission.do_send(Panic);
            timeout(std::time::Duration::from_secs(10), ended).await.unwrap();
            assert!(!admission.connected());
        });
    }
}
