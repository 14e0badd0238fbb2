/** Locks: keep a user, a node, a role or a login out, at once. */

import { useState } from "preact/hooks";
import type { PageProps } from "../app";
import { ApiError, ask, part } from "../api";
import { Button, Empty, Head, Loading, Trouble, When } from "../parts/basics";
import { Ask } from "../parts/dialog";
import { Field, Select } from "../parts/fields";
import { useAsked } from "../parts/asked";
import { Table } from "../parts/table";
import { may } from "../session";
import type { Lock } from "../types";
import { parseDuration } from "../words";

export function LocksPage({ me }: PageProps) {
  const { answer, error, reload } = useAsked<{ locks: Lock[] }>("/web/api/v1/locks", 5000);
  const [adding, setAdding] = useState(false);
  const [removing, setRemoving] = useState<Lock | null>(null);
  if (!answer) return error ? <Trouble error={error} again={() => void reload()} /> : <Loading />;
  const add = may(me, "locks", "create") && (
    <Button kind="main" icon="plus" onClick={() => setAdding(true)}>
      New lock
    </Button>
  );
  return (
    <>
      <Head title="Locks" note="What a lock names is refused, and its live sessions end within seconds.">
        {answer.locks.length > 0 && add}
      </Head>
      <Trouble error={error} />
      {answer.locks.length === 0 ? (
        <Empty icon="locks" title="Nothing is locked">
          <p>A lost laptop, a device that behaves oddly, a person who has left: lock it first, and find out then.</p>
          {add}
        </Empty>
      ) : (
        <Table
          label="Locks"
          rows={answer.locks}
          id={(lock) => lock.id}
          columns={[
            {
              title: "Locked",
              class: "name",
              show: (lock) =>
                Object.entries(lock.target).map(([kind, name]) => (
                  <>
                    <strong>{name}</strong>
                    <small>{kind}</small>
                  </>
                )),
            },
            { title: "Why", show: (lock) => lock.message || <span class="dim">not said</span> },
            { title: "Since", class: "nowrap", show: (lock) => <When at={lock.created} /> },
            { title: "Ends", class: "nowrap", show: (lock) => <When at={lock.expires} /> },
            { title: "By", show: (lock) => lock.created_by },
            {
              title: "Actions",
              hidden: true,
              class: "actions",
              show: (lock) =>
                may(me, "locks", "delete") && (
                  <Button small aria-label={`Remove the lock on ${Object.values(lock.target).join()}`} onClick={() => setRemoving(lock)}>
                    Remove
                  </Button>
                ),
            },
          ]}
        />
      )}
      {adding && (
        <LockDialog
          onClose={() => setAdding(false)}
          onDone={async () => {
            setAdding(false);
            await reload();
          }}
        />
      )}
      {removing && (
        <Ask
          title={`Remove the lock on ${Object.values(removing.target).join()}?`}
          yes="Remove"
          onClose={() => setRemoving(null)}
          act={async () => {
            await ask(`/web/api/v1/locks/${part(removing.id)}`, { method: "DELETE" });
            setRemoving(null);
            await reload();
          }}
        >
          <p>From then on roles alone decide again.</p>
        </Ask>
      )}
    </>
  );
}

function LockDialog({ onClose, onDone }: { onClose: () => void; onDone: () => Promise<void> }) {
  const [kind, setKind] = useState("user");
  const [name, setName] = useState("");
  const [ttl, setTtl] = useState("");
  const [message, setMessage] = useState("");
  return (
    <Ask
      title="New lock"
      yes="Lock"
      danger
      onClose={onClose}
      act={async () => {
        const seconds = ttl ? parseDuration(ttl) : undefined;
        if (seconds === null) throw new ApiError("bad_request", "How long: a number and a letter.", "30m, 12h or 7d; empty: until it is removed");
        await ask("/web/api/v1/locks", { method: "POST", body: { target: { [kind]: name.trim() }, ...(seconds ? { ttl: seconds } : {}), ...(message ? { message } : {}) } });
        await onDone();
      }}
    >
      <div class="columns">
        <Select
          label="What"
          value={kind}
          onValue={setKind}
          options={[
            ["user", "A user"],
            ["node", "A node"],
            ["role", "A role"],
            ["login", "A login"],
            ["device", "The key of one login"],
          ]}
        />
        <Field label="Its name" value={name} onValue={setName} required autocapitalize="none" spellcheck={false} hint={kind === "device" ? "SHA256:..., as the audit log has it" : undefined} />
      </div>
      <Field label="For how long" value={ttl} onValue={setTtl} placeholder="until it is removed" hint="30m, 12h, 7d" />
      <Field label="Why" value={message} onValue={setMessage} maxLength={300} hint="Whoever is refused reads it." />
    </Ask>
  );
}
