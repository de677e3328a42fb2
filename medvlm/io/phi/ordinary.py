"""Words of reports, questions and file names: an identifier of the archive that is one of them identifies nobody."""

from __future__ import annotations

from medvlm.io.phi.words import NO_NAMES

_WORDS = """
    abcess abdominus able abnormal abnormalities abnormality abnormally abscess absorbing accumulation ache acquire
    acquired across adenoma adenopathy adequate adjacent administered admission aeration affect affected agent aging
    airspace airway airways alarming allows almost along alteration altered alternate alveolar alveoli always amid
    anatomic anemia aneurysm aneurysmal angioma angle angles annotated anomaly anoxic anterior anything anywhere
    aortic aortopulmonary apex aphasia apices appear appearance appearing appendiceal appendicitis appendicolith
    appendix applied appreciate appreciated appropriately approximately arch area areas arising around arrow arterial
    arteries artifacts ascending ascites aspect aspergillosis assess assessed assisting associated asthma astrocytoma
    asymmetric asymmetrical atelectasis atherosclerosis atrophied atrophy attention attenuated augmented avoid
    azygoesophageal backwards bacteria ball basal base bases been behind being belong benign besides best between
    bigger biggest bilaterally bile biliary biological black bladde bleed bleeding bleeds blocked blunted blunting
    blurring bones bony border borders bottom bowels brainstem branches breasts breath breathing brian bright brighter
    brightness bring broken bronchi bronchiectasis bronchitis bronchus bubble bubbles bulging bulk bullous bursitis
    caking calcifications calcified call callosum callus cancerous candida capsule captured carcinoma carcioma cardia
    cardiomegaly cardiomyopathy cardiopulmonary cardiovascular caries carina cartilage case cases categorized category
    catheter caudate cause caused causes causing cava cavit cavitary cavitation cavoatrial cavum cecum celiac cells
    center central cerebellar cerebellopontine cerebellum cerebral cerebrum cervix changes characteristic
    characteristics characterization characterize characterized chemical chewing chiasm cholecystectomy chondroma
    choroid choroidal circular circulares circulatory circumferential circumscribed cirrhosis cirrhotic cistern
    clavicle clavicles clearly clips close clot coarse cold colitis collapsed collection colonic color colour column
    common compared complain composition compressed compressing conal concerning condition confined confusion
    congestion connect consistency consistent consolidation consolidations constitute contain contains contents
    contour control convexity copy cord corner corona corpus corrected cortex cortical costophrenic costovertebral
    count covid cranial crescent crop cropped cross cystic cysts cytotoxic damage dark dataset decreased default
    defect deficit deficits defined defining definitive delineate deliver demo demonstrate demonstrated demonstrates
    dense denser densities density dental deominstrate dependent depicted dermatitis dermoscopy descending describe
    described description determine detoxicate detoxicating detoxification developmental deviated deviating deviation
    diagnose diameter diaphragm dietary difference different differential differentiated differentiates
    differentiation difficult difficulty diffuse diffusion digest digesting digestive dilatation dilated dilation
    direction directly discharge discharging diseases disorder displaced display displayed distended distending
    distension distinguish distribution distributions diverticulum does done dorsal dots down drain duct ducts
    duodenum dyed dysplasia ears easily ectatic ectopic eczema edematous edge edges effacement effect effort effusions
    either elevation else emanating embolism embryonic emphysema emptying empyema encephalon encompassing ending
    endoscopy engorged enhance enhanced enhancement enhancements enhancing enlargement enough entire enzymes
    eosinophil epidural erythrocyte esophagitis esophagus etiology evaluate evaluated evidence evident evinced example
    exceed excrete exhibits exist existed existing exophytic expect expiration export exposed extend extension
    extensive extra extraluminal extremities eyes facial factors failure fascia faster fatigue fatty favor features
    feces feeding feet femoral fetus fibroid fibroma field fields fifth file filled filling final first fissure
    fitness flat flattened flattening flip flipped flow fluid fluids foamy focal foci followed food foot forearm
    foreign form format forming fossa fossae found fractured fractures free fullness function fundus fungal gadolinium
    gall gallstones ganglia ganglion gastric gastritis generated genetic give given gland glass glaucoma glioblastoma
    glioma going goiter goitre gout granuloma gray great greater grey ground group growing gyral gyri half happening
    haustra have heads healthy heartbeat height hematoma hemidiaphragm hemidiaphragms hemisphere hemithoraces
    hemithorax hemmorhage hemoptysis hemorrhage hemorrhagic hepatic hepatocellular hernia herniated herniation
    heterogeneous heterogenous high higher highlight highlighted hila hilar hilum histology hollow homogeneous
    homogenous horn horns hours human humerus humps hydrocephalus hydronephrosis hydropneumothorax hygiene hyper
    hyperattenuations hyperdense hyperdensities hyperdensity hyperemia hyperinflated hyperinflation hyperintense
    hyperintensities hyperintensitites hyperintensity hyperlucent hyperplasia hypo hypoattenuated hypodense
    hypodensity hypoinflation hypointense hypointensity hypoxic identifiable identify ileac ileus iliac illness imaged
    immunity impacted impairment implant important inappropriate inappropriately incidental incidentally include
    included indicate indicates indicative indictate infarct infarcted infarction infarcts infectious inferior
    infiltrates infiltrating infiltration infiltrative inflamed inflammation inflammatory inflammed inflated influenza
    infratentorial ingest input inside inspiration inspiratory instance instances intense intensity interior
    interstitial intesities intestinal intestinalis intestine intestines into intracranial intrahepatic
    intraparenchymal intraperitoneal intraventricular intubated intussesception intussusception involve involved
    involvement irregular ischemic isointense item jaundice jejunum junction junctions just keep keratosis kidneys
    kind kinds knob know label labels lacerated larger largest larynx laterality lateralized layering laying leading
    leads leakage least leftmost length lens lentiform less level levels lies light lighter likely limits line lines
    lipoma lobe lobes localize localized locate located location locations loculated loculation long look looking loop
    loops loss lucency lucent lumen luminal lying lymphadenopathy lymphatic lymphocytes lymphoma made main maintaining
    major makes malaria malignant mammogram mandible manipulation margins markings marks marrow mask masses massive
    material matter mean means meant measure mediastinal mediastinum mediastium medication medulla melanoma memory
    meningioma merged mesenteric metal metastases metastasis metastatic method microscopy midbrain middle midline
    might minutes mirror mismatch modality mogul more morphologic mosaic most motion much mucosa mucosal mucus
    multilobulated muscle muscles musculoskeletal myeloma naevus narrowing nature near necrosis need neglect
    neighboring neoplastic nephroblastomatosis nephroma nerve nerves nervous neuro neuroma nevus newer nodes nodular
    nodules noncontrast norm normalised normalized normally noted nucleus nutrients object oblique obscured observed
    obstructed obstruction obstrution obtained obvious occipital occluded occlusion occurrence oedema often omental
    omentum opacification opacities opacity open optic oral orally orbits order organ organs orientation oriented
    origin original osteoma osteoporosis outer outline output outside overlay pacemaker pads paget pairs pancreas
    pancreatic pancreatitis panorama papilloma parasite parasitic parenchyma parietal parotids part parts past patch
    patchy patent path pathologic pathology pattern pelvic penetration percentage perform periappendiceal pericardial
    pericholecystic pericolic pericolonic peripheral periphery peritoneal peritoneum person persons phantom phase
    photo physiology picture pictured pictures pilot pituitary place placebo placed plane plaques play pleura plicae
    pneumo pneumomediastinum pneumoperitoneum pneumothorax polyp polyps portion positioned possibly posteriolateral
    posteriorly posteroinferior posterolateral potentially predicted predominantly presence preserved pressure prevent
    preview previously primarily principally probably problem procalcitonin process processed progress prominent
    prominently promote promptly pronunciation properly proportion prostate protein proximal pseudocsyst pseudocyst
    psoriasis punctate pushing putamen quadrant quadrantopia radiographic radiography radiological radiolucent
    radioopaque ragged rate ratio reaction receive recess recognizable record rectum rectus region regions related
    relation relative remembering represent represented represents resized respect restricted reticular retina
    retinopathy retrocardiac reveal ribbon ribs rightmost ring role rotated round ruptured safe saggital sample
    samples sarcoidosis sarcoma scaled scanned scanning sclerosis scoliosis screen second secondary secrete secreting
    section sections sedimentation seem seen segment segmentation selected sella sensing sensory serie session shadow
    shadows shape shaped sharp shift shifted shifting show showed showing shown shows shrunk side sided sides sigmoid
    signal signaling signals significant signify signifying silhouette silhouetting silicosis singular sinusitis site
    situ size skull slice slide smaller smear smoking soft solid solitary sound source space spaces spared special
    specks spinal splee spleen spondylosis sprain sputum stack stem stenosis stent sternotomy stomac stool storing
    strain stranding strengthen stretched stroke structural structure structures subclavian subcutaneous
    subcutaneously subdiaphragmatic subdural subpleural substance such sufficient suggest suggested suggestive sulci
    superficial superimposed superior supportive supraclavicular suprasellar supratentorial sure surface surfaces
    surrounding surrounds suspect suspicious sustain swelling swollen symmetric symmetrical symmetry symptoms syndrome
    synonymous syphilis systems take taken taking tear tell tells template temporal tension teratoma term territory
    testing thalamus than them thickened thickening things thorasic thrombosis throughout thumb tightness tile tiles
    tilting tinnitus tissues tongue tooth tortuosity tortuous towards trachea tracheal track train training tram
    transverse trapped treat treatment tributaries trunk tuberculosis tumors type types typical typically ulcer
    unaltered uncertain underexposed underneath undulations unhealthy unified uniform unilateral unlabelled unseen
    untreated upright ureters urinary urine used uterus validation variants varied varying vasculature vasculitis
    veins vena venous ventricle ventricles ventricular vergae versus vertebra vertebrae vertebral vertical vessel
    vessels veterbral video viewed viral virus visceral visible visualizable visualize visualized volume vomiting wall
    walls warm wart waste weakness wedge week weeks weight weighted weighting what white whole wide widened widening
    wider width window wires women wrong xray xrays years yellow zoom
"""
ORDINARY = frozenset(_WORDS.split()) | NO_NAMES
"""In lower case, of 4 letters or more, without accents."""
