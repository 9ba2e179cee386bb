-- Backslash commands, which ask the catalog.
\d cli_item
\d+ cli_more.child
\dt
\dn
\df cli_more.*
\dT cli_more.*
\dv cli_more.*
\dm cli_more.*
\ds cli_more.*
\sf cli_more.twice
\sv cli_more.dear
\dd cli_item
\l driver
\d nowhere
