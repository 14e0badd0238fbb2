/** Roles: what each lets people do, in words and as the document that it is. */

import { useState } from "preact/hooks";
import type { PageProps } from "../app";
import { ApiError, ask, part } from "../api";
import { Button, Empty, Head, Loading, Trouble } from "../parts/basics";
import { Ask, Dialog } from "../parts/dialog";
import { Area, Field } from "../parts/fields";
import { useAsked } from "../parts/asked";
import { Table } from "../parts/table";
import { may } from "../session";
import type { Conditions, Role } from "../types";

const NEW = `{
  "allow": {
    "logins": ["{{internal.logins}}"],
    "node_labels": {"site": ["berlin"]},
    "rules": [{"resources": ["nodes", "status"], "verbs": ["read"]}]
  },
  "options": {"max_session_ttl": "12h"}
}`;

type Open = { is: "add" } | { is: "show" | "edit" | "remove"; role: Role } | null;

export function RolesPage({ me }: PageProps) {
  const { answer, error, reload } = useAsked<{ resources: Role[] }>("/web/api/v1/resources/role", 30_000);
  const [open, setOpen] = useState<Open>(null);
  if (!answer) return error ? <Trouble error={error} again={() => void reload()} /> : <Loading />;
  const close = () => setOpen(null);
  const done = async () => {
    close();
    await reload();
  };
  const changes = may(me, "roles", "update");
  return (
    <>
      <Head title="Roles" note="What is not allowed by a role is denied; what any role denies stays denied.">
        {may(me, "roles", "create") && (
          <Button kind="main" icon="plus" onClick={() => setOpen({ is: "add" })}>
            New role
          </Button>
        )}
      </Head>
      <Trouble error={error} />
      {answer.resources.length === 0 && <Empty icon="roles" title="No roles" />}
      <Table
        label="Roles"
        rows={[...answer.resources].sort((a, b) => a.name.localeCompare(b.name))}
        id={(role) => role.name}
        columns={[
          { title: "Role", class: "name", show: (role) => <strong>{role.name}</strong> },
          { title: "Nodes", show: (role) => <Nodes of={role.allow} /> },
          { title: "Logins", show: (role) => <span class="mono">{role.allow?.logins?.join(", ")}</span> },
          { title: "May", show: (role) => (role.allow?.rules ?? []).map(ruleText).join("; ") },
          { title: "Denies", show: (role) => denies(role.deny) },
          {
            title: "Actions",
            hidden: true,
            class: "actions",
            show: (role) => (
              <>
                <Button kind="quiet" icon={changes ? "edit" : "eye"} title={changes ? "Change" : "Show"} aria-label={`${changes ? "Change" : "Show"} ${role.name}`} onClick={() => setOpen({ is: changes ? "edit" : "show", role })} />
                {may(me, "roles", "delete") && <Button kind="quiet" icon="trash" title="Remove" aria-label={`Remove ${role.name}`} onClick={() => setOpen({ is: "remove", role })} />}
              </>
            ),
          },
        ]}
      />
      {open?.is === "show" && (
        <Dialog title={`Role ${open.role.name}`} onClose={close} wide>
          <pre tabIndex={0}>{text(open.role)}</pre>
        </Dialog>
      )}
      {open?.is === "add" && <RoleDialog onClose={close} onDone={done} />}
      {open?.is === "edit" && <RoleDialog role={open.role} onClose={close} onDone={done} />}
      {open?.is === "remove" && (
        <Ask
          title={`Remove the role ${open.role.name}?`}
          yes="Remove"
          danger
          onClose={close}
          act={async () => {
            await ask(`/web/api/v1/resources/role/${part(open.role.name)}`, { method: "DELETE" });
            await done();
          }}
        >
          <p>A role that somebody still has is not removed: take it from them first.</p>
        </Ask>
      )}
    </>
  );
}

function RoleDialog({ role, onClose, onDone }: { role?: Role; onClose: () => void; onDone: () => Promise<void> }) {
  const [name, setName] = useState("");
  const [document, setDocument] = useState(role ? text(role) : NEW);
  return (
    <Ask
      title={role ? `Role ${role.name}` : "New role"}
      yes="Save"
      wide
      onClose={onClose}
      act={async () => {
        let body: unknown;
        try {
          body = JSON.parse(document);
        } catch (error) {
          throw new ApiError("bad_request", "This is not JSON.", String(error instanceof Error ? error.message : error));
        }
        const path = `/web/api/v1/resources/role/${part(role?.name ?? name.trim())}`;
        await ask(role ? path : `${path}?create=1`, { method: "PUT", body });
        await onDone();
      }}
    >
      {!role && <Field label="Name" value={name} onValue={setName} required autocapitalize="none" spellcheck={false} focus />}
      <Area label="Document" value={document} onValue={setDocument} rows={16} hint="As tctl get --format json role shows it. Taking something away ends the certificates that people hold; sessions that it forbids end." />
    </Ask>
  );
}

function ruleText({ verbs, resources }: { verbs: string[]; resources: string[] }): string {
  const [all, everything] = [verbs.includes("*"), resources.includes("*")];
  if (all && everything) return "everything";
  return `${all ? "anything with" : verbs.join(", ")} ${everything ? "everything" : resources.join(", ")}`;
}

function text(role: Role): string {
  const { kind: _, name: __, ...rest } = role;
  return JSON.stringify(rest, null, 2);
}

function Nodes({ of }: { of?: Conditions }) {
  const labels = Object.entries(of?.node_labels ?? {});
  if (!labels.length) return <span class="dim">none</span>;
  return <span class="mono">{labels.map(([key, values]) => (key === "*" ? "all" : `${key}=${values.join("|")}`)).join(", ")}</span>;
}

function denies(of?: Conditions): string {
  const said = [
    ...(of?.logins?.length ? [`logins ${of.logins.join(", ")}`] : []),
    ...Object.entries(of?.node_labels ?? {}).map(([key, values]) => `${key}=${values.join("|")}`),
    ...(of?.rules ?? []).map(ruleText),
  ];
  return said.join("; ");
}
