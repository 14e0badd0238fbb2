import { Head } from "../parts/basics";

export function AuditPage() {
  return <Head title="Audit" />;
}
