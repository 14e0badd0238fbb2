import { Head } from "../parts/basics";

export function RolesPage() {
  return <Head title="Roles" />;
}
