-- An invoice whose money was all refunded before the bank decided for the client, and whose rest a credit note or other credit then covers.
INSERT INTO control.state_edge (machine, source, target) VALUES ('invoice', 'CHARGED_BACK', 'REFUNDED');
