-- A line that says it has taxes refers to the last of them, and an invoice to the last of its discounts. What is inserted is numbered from 1
-- and counted by the trigger on its own table, so that the last one is there only with all before it. A foreign key is checked several times
-- faster than the deferred trigger that asked for each line, which a billing run and a long annex had to wait for.
DROP TRIGGER taxes_present ON invoice_line;
DROP FUNCTION require_line_taxes();
ALTER TABLE invoice_line ADD COLUMN last_tax_no SMALLINT GENERATED ALWAYS AS (nullif(tax_count, 0)) STORED;
ALTER TABLE invoice_line ADD CONSTRAINT invoice_line_tax_missing FOREIGN KEY (firm_id, invoice_id, line_no, last_tax_no)
    REFERENCES invoice_line_tax (firm_id, invoice_id, line_no, tax_no) DEFERRABLE INITIALLY DEFERRED;

DROP TRIGGER discounts_present ON invoice;
DROP FUNCTION require_discounts();
ALTER TABLE invoice ADD COLUMN last_discount_no SMALLINT GENERATED ALWAYS AS (nullif(discount_count, 0)) STORED;
ALTER TABLE invoice ADD CONSTRAINT invoice_discount_missing FOREIGN KEY (firm_id, id, last_discount_no)
    REFERENCES invoice_discount (firm_id, invoice_id, discount_no) DEFERRABLE INITIALLY DEFERRED;
