//! What the AdmissionActor does with each message.

use actix::{Context, Handler, MessageResult};
use tokio::time::Instant;

use super::{
    AdmissionActor, Registration,
    messages::{
        AdmissionEvent, AdmissionQuestion, AdmissionReport, EvictionDone, ExplainWait, HoldingChange, HoldingChanged,
        IdleAvailable, IdleFound, NotifyWhenReleased, Register, RequestStart, Unregister, Withdraw,
    },
};

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
        registration.requested = serial;
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

    fn handle(&mut self, EvictionDone { instance, evicted }: EvictionDone, ctx: &mut Context<Self>) {
        if evicted {
            self.ledger.set_stopping(instance, Instant::now());
        }
        self.eviction.finish(instance);
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

impl Handler<AdmissionQuestion> for AdmissionActor {
    type Result = MessageResult<AdmissionQuestion>;

    fn handle(&mut self, _: AdmissionQuestion, _: &mut Context<Self>) -> Self::Result {
        MessageResult(AdmissionReport {
            memory_taken: self.ledger.taken(),
            memory_free: self.ledger.free(),
            starting: self.ledger.starting(),
            functions_waiting: self.ledger.waiting(),
        })
    }
}
