-- A cap that is raised or lowered is another cap: what has been told of the old one says nothing of the new.
ALTER TABLE cap_alert DROP CONSTRAINT cap_alert_pkey;
ALTER TABLE cap_alert ADD CONSTRAINT cap_alert_pkey PRIMARY KEY (firm_id, engagement_id, scope, period_start, percent, cap_minor);
