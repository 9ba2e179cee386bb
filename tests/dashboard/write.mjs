// Writes the dashboard as TypeScript whose types are those of Grafana's published schema: what compiles fits it.
//
//   node write.mjs grafana.json > dashboard.ts

import { readFileSync } from 'node:fs';

const dashboard = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const lines = [
    "import type { Dashboard, GraphFieldConfig } from '@grafana/schema';",
    "import type { Options as Stat } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';",
    "import type { Options as Timeseries } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';",
    '',
    '/** JSON that stands for T: an enumeration is one of its values, and what is left out has its default. */',
    'type Json<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T',
    '    : T extends (infer U)[] ? Json<U>[] : T extends object ? { [K in keyof T]?: Json<T[K]> } : T;',
    '',
    `export const dashboard: Json<Dashboard> = ${JSON.stringify(dashboard, null, 2)};`,
];
// The schema of a panel leaves to its plugin what its options are.
const options = { stat: 'Stat', timeseries: 'Timeseries' };
const custom = { timeseries: 'GraphFieldConfig' };
for (const panel of dashboard.panels.filter((panel) => panel.type !== 'row')) {
    const name = `of_panel_${panel.id}`;
    if (!options[panel.type]) {
        throw new Error(`${panel.title}: the schema of ${panel.type} panels is not known here`);
    }
    lines.push(`export const ${name}: Json<${options[panel.type]}> = ${JSON.stringify(panel.options)};`);
    const fields = panel.fieldConfig.defaults.custom ?? {};
    lines.push(`export const custom_${name}: Json<${custom[panel.type] ?? '{}'}> = ${JSON.stringify(fields)};`);
}
console.log(lines.join('\n'));
